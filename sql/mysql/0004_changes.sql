-- What changed lately is looked for every few seconds, also among tags and broker groups. Made
-- unless it is there, which not every server can say in one statement.
SET SESSION lock_wait_timeout = 60;
SET @statement = IF(
    EXISTS (SELECT 1 FROM information_schema.statistics
            WHERE table_schema = DATABASE() AND table_name = 'subject_info'
              AND index_name = 'qmq_tag_changes'),
    'DO 0',
    'CREATE INDEX qmq_tag_changes ON subject_info (update_time)');
PREPARE change_schema FROM @statement;
EXECUTE change_schema;
DEALLOCATE PREPARE change_schema;
SET @statement = IF(
    EXISTS (SELECT 1 FROM information_schema.statistics
            WHERE table_schema = DATABASE() AND table_name = 'broker_group'
              AND index_name = 'qmq_group_changes'),
    'DO 0',
    'CREATE INDEX qmq_group_changes ON broker_group (update_time)');
PREPARE change_schema FROM @statement;
EXECUTE change_schema;
DEALLOCATE PREPARE change_schema;
