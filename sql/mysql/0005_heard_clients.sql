-- Ours, beside the tables of QMQ.

-- Clients of table client_meta_info that one of our metaservers heard, and when it last did. Only
-- these are ever dropped from there: of the others, a Java metaserver beside ours may know that they
-- are alive. id: that of the row there; 0 is the metaservers themselves.
CREATE TABLE IF NOT EXISTS qmq_heard_client (
    id           BIGINT UNSIGNED NOT NULL PRIMARY KEY,
    last_seen_ms BIGINT NOT NULL,
    KEY qmq_heard_client_last (last_seen_ms)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
