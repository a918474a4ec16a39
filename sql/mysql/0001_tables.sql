-- The tables of a QMQ metadata database on MySQL and MariaDB.
--
-- * What is there already, from the original metaserver, stays as it is: no table is made anew, no
--   column altered. Columns that only some versions have (ext) are neither needed nor read.
-- * Names are compared byte by byte in tables made here; in original ones without case.
-- * Times are written by the statements of the metaserver. The defaults are for an original
--   metaserver beside it.
-- * Every statement can be repeated: two metaservers may start on the same database at once.

-- One row per broker process, written by AddBroker before the broker's first start.
-- ip: IPv4 address as a number. role: 0 master, 1 slave, 4 backup, 5 6 7 the same for delay.
-- sync_port: -1 for backups.
CREATE TABLE IF NOT EXISTS broker (
    id          BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    group_name  VARCHAR(30) NOT NULL,
    hostname    VARCHAR(50) NOT NULL,
    ip          INT UNSIGNED NOT NULL,
    role        INT NOT NULL,
    serve_port  INT NOT NULL DEFAULT 20881,
    sync_port   INT NOT NULL DEFAULT 20882,
    create_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    update_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    UNIQUE KEY uniq_broker (hostname, serve_port),
    UNIQUE KEY uniq_group_role (group_name, role),
    KEY idx_broker_group (group_name)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- One row per broker group that has ever been online: what clients are told about it.
-- kind: 1 realtime, 2 delay. broker_state: 1 RW, 2 R, 3 W, 4 NRW. tag: '' and _default_ stand for
-- subjects without a tag of their own. ext: of the original metaserver, never read.
CREATE TABLE IF NOT EXISTS broker_group (
    id             BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    group_name     VARCHAR(30) NOT NULL,
    kind           INT NOT NULL DEFAULT -1,
    master_address VARCHAR(25) NOT NULL DEFAULT '',
    broker_state   TINYINT NOT NULL DEFAULT -1,
    tag            VARCHAR(30) NOT NULL DEFAULT '',
    ext            TEXT NULL,
    create_time    TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    update_time    TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    UNIQUE KEY uniq_group (group_name)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Subjects that an operator gave a tag.
CREATE TABLE IF NOT EXISTS subject_info (
    id          BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    name        VARCHAR(100) NOT NULL,
    tag         VARCHAR(30) NOT NULL DEFAULT '',
    create_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    update_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    UNIQUE KEY uniq_name (name)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Which groups serve a subject. Changed by compare-and-set on the version only.
-- subject_info: name of the subject. broker_group_json: ["group", ...]; wider than in original
-- databases, where no more than 300 characters fit. version: 1 at first, then one more with each
-- change.
CREATE TABLE IF NOT EXISTS subject_route (
    id                BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    subject_info      VARCHAR(100) NOT NULL,
    broker_group_json VARCHAR(4000) NOT NULL,
    version           INT NOT NULL DEFAULT 0,
    create_time       TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    update_time       TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    UNIQUE KEY uniq_subject (subject_info)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Every client that was ever online. subject_info: as the client named it, retry subjects included.
CREATE TABLE IF NOT EXISTS client_meta_info (
    id             BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    subject_info   VARCHAR(100) NOT NULL,
    client_type    TINYINT NOT NULL DEFAULT 0,
    consumer_group VARCHAR(100) NOT NULL DEFAULT '',
    client_id      VARCHAR(100) NOT NULL,
    app_code       VARCHAR(100) NOT NULL DEFAULT '',
    room           VARCHAR(20) NOT NULL DEFAULT '',
    create_time    TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    update_time    TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    UNIQUE KEY uniq_client (subject_info, client_type, consumer_group, client_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Consumers that an operator switched off (state 1), or back on against a wildcard (0). Each of the
-- names may be *.
CREATE TABLE IF NOT EXISTS client_offline_state (
    id             BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    client_id      VARCHAR(100) NOT NULL DEFAULT '',
    subject_info   VARCHAR(100) NOT NULL DEFAULT '',
    consumer_group VARCHAR(100) NOT NULL DEFAULT '',
    state          TINYINT NOT NULL DEFAULT 0,
    UNIQUE KEY uniq_switch (client_id, subject_info, consumer_group)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Groups that producers of a subject, or of all subjects (*), shall not use. broker_group: 20 characters
-- in original databases.
CREATE TABLE IF NOT EXISTS readonly_broker_group_setting (
    id           BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    subject      VARCHAR(100) NOT NULL,
    broker_group VARCHAR(30) NOT NULL,
    create_time  TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    UNIQUE KEY uniq_mark (subject, broker_group)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Databases of applications with messages that wait to be sent; read by the watchdog. status: 0
-- online, -1 offline.
CREATE TABLE IF NOT EXISTS datasource_config (
    id          BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    url         VARCHAR(128) NOT NULL,
    user_name   VARCHAR(100) NOT NULL,
    password    VARCHAR(100) NOT NULL,
    status      TINYINT NOT NULL DEFAULT 0,
    room        VARCHAR(20) NOT NULL DEFAULT '',
    create_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    update_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
    UNIQUE KEY uniq_url (url)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Which watchdog works. last_seen_active: ms.
CREATE TABLE IF NOT EXISTS leader_election (
    id               BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    name             VARCHAR(128) NOT NULL,
    node             VARCHAR(128) NOT NULL,
    last_seen_active BIGINT NOT NULL DEFAULT 0,
    UNIQUE KEY uniq_name (name)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Ours: when the master of a group was last heard by any metaserver, by the clock of the database. A
-- group is away when nobody heard it for a while, not when one metaserver did not. -1 once it went
-- away: who brings it back without being heard by ours is looked after by somebody else.
CREATE TABLE IF NOT EXISTS qmq_broker_liveness (
    group_name   VARCHAR(30) NOT NULL PRIMARY KEY,
    last_seen_ms BIGINT NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
