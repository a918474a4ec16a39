-- What changed lately is looked for every few seconds, among as many routes as there are subjects.
-- Made unless it is there, which not every server can say in one statement. Building it lets others
-- read and write; only its begin and end wait for them.
SET SESSION lock_wait_timeout = 60;
SET @statement = IF(
    EXISTS (SELECT 1 FROM information_schema.statistics
            WHERE table_schema = DATABASE() AND table_name = 'subject_route'
              AND index_name = 'qmq_route_changes'),
    'DO 0',
    'CREATE INDEX qmq_route_changes ON subject_route (update_time)');
PREPARE change_schema FROM @statement;
EXECUTE change_schema;
DEALLOCATE PREPARE change_schema;
