-- What changed lately is looked for every few seconds, also among tags and broker groups.
CREATE INDEX IF NOT EXISTS qmq_tag_changes ON subject_info (update_time);
CREATE INDEX IF NOT EXISTS qmq_group_changes ON broker_group (update_time);
