-- The tables of a QMQ metadata database, with the columns they have on MySQL, in SQLite's words.
--
-- * Times are milliseconds since 1970-01-01 UTC; MySQL has timestamps of whole seconds there. Both
--   are written by the statements of the metaserver, never by triggers or defaults of a session.
-- * Names are compared byte by byte. MySQL compares them without case by default.
-- * Every statement can be repeated: two metaservers may start on the same file at once.

-- One row per broker process, written by AddBroker before the broker's first start.
CREATE TABLE IF NOT EXISTS broker (
    id          INTEGER PRIMARY KEY,
    group_name  TEXT    NOT NULL,
    hostname    TEXT    NOT NULL,
    ip          INTEGER NOT NULL,                -- IPv4 address as a number, 10.0.0.1 = 167772161
    role        INTEGER NOT NULL,                -- 0 master, 1 slave, 4 backup, 5 6 7 the same for delay
    serve_port  INTEGER NOT NULL DEFAULT 20881,
    sync_port   INTEGER NOT NULL DEFAULT 20882,  -- -1 for backups
    create_time INTEGER NOT NULL,
    update_time INTEGER NOT NULL,
    UNIQUE (hostname, serve_port),
    UNIQUE (group_name, role)
);
CREATE INDEX IF NOT EXISTS idx_broker_group ON broker (group_name);

-- One row per broker group that has ever been online: what clients are told about it.
CREATE TABLE IF NOT EXISTS broker_group (
    id             INTEGER PRIMARY KEY,
    group_name     TEXT    NOT NULL UNIQUE,
    kind           INTEGER NOT NULL DEFAULT -1,  -- 1 realtime, 2 delay
    master_address TEXT    NOT NULL DEFAULT '',  -- ip:port
    broker_state   INTEGER NOT NULL DEFAULT -1,  -- 1 RW, 2 R, 3 W, 4 NRW
    tag            TEXT    NOT NULL DEFAULT '',  -- '' and _default_: for subjects without a tag of their own
    ext            TEXT,                         -- of the Java metaserver; never read
    create_time    INTEGER NOT NULL,
    update_time    INTEGER NOT NULL
);

-- Subjects that an operator gave a tag.
CREATE TABLE IF NOT EXISTS subject_info (
    id          INTEGER PRIMARY KEY,
    name        TEXT    NOT NULL UNIQUE,
    tag         TEXT    NOT NULL DEFAULT '',
    create_time INTEGER NOT NULL,
    update_time INTEGER NOT NULL
);

-- Which groups serve a subject. Changed by compare-and-set on the version only.
CREATE TABLE IF NOT EXISTS subject_route (
    id                INTEGER PRIMARY KEY,
    subject_info      TEXT    NOT NULL UNIQUE,   -- name of the subject
    broker_group_json TEXT    NOT NULL,          -- ["group", ...]
    version           INTEGER NOT NULL,          -- 1 at first, then one more with each change
    create_time       INTEGER NOT NULL,
    update_time       INTEGER NOT NULL
);

-- Every client that was ever online.
CREATE TABLE IF NOT EXISTS client_meta_info (
    id             INTEGER PRIMARY KEY,
    subject_info   TEXT    NOT NULL,             -- as the client named it, retry subjects included
    client_type    INTEGER NOT NULL,
    consumer_group TEXT    NOT NULL,
    client_id      TEXT    NOT NULL,
    app_code       TEXT    NOT NULL,
    room           TEXT    NOT NULL DEFAULT '',
    create_time    INTEGER NOT NULL,
    update_time    INTEGER NOT NULL,
    UNIQUE (subject_info, client_type, consumer_group, client_id)
);

-- Consumers that an operator switched off (1), or back on against a wildcard (0).
CREATE TABLE IF NOT EXISTS client_offline_state (
    id             INTEGER PRIMARY KEY,
    client_id      TEXT    NOT NULL,             -- or *
    subject_info   TEXT    NOT NULL,             -- or *
    consumer_group TEXT    NOT NULL,             -- or *
    state          INTEGER NOT NULL DEFAULT 0,
    UNIQUE (client_id, subject_info, consumer_group)
);

-- Groups that producers of a subject shall not use.
CREATE TABLE IF NOT EXISTS readonly_broker_group_setting (
    id           INTEGER PRIMARY KEY,
    subject      TEXT    NOT NULL,               -- or *
    broker_group TEXT    NOT NULL,
    create_time  INTEGER NOT NULL,
    UNIQUE (subject, broker_group)
);

-- Databases of applications with messages that wait to be sent; read by the watchdog.
CREATE TABLE IF NOT EXISTS datasource_config (
    id          INTEGER PRIMARY KEY,
    url         TEXT    NOT NULL UNIQUE,
    user_name   TEXT    NOT NULL,
    password    TEXT    NOT NULL,
    status      INTEGER NOT NULL DEFAULT 0,      -- 0 online, -1 offline
    room        TEXT    NOT NULL DEFAULT '',
    create_time INTEGER NOT NULL,
    update_time INTEGER NOT NULL
);

-- Which watchdog works.
CREATE TABLE IF NOT EXISTS leader_election (
    id               INTEGER PRIMARY KEY,
    name             TEXT    NOT NULL UNIQUE,
    node             TEXT    NOT NULL,
    last_seen_active INTEGER NOT NULL
);

-- Ours: when the master of a group was last heard by any metaserver. A group is away when nobody
-- heard it for a while, not when one metaserver did not. -1 once it went away: who brings it back
-- without being heard by ours is looked after by somebody else.
CREATE TABLE IF NOT EXISTS qmq_broker_liveness (
    group_name   TEXT    NOT NULL PRIMARY KEY,
    last_seen_ms INTEGER NOT NULL                -- clock of the database
);
