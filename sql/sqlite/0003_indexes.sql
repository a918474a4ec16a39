-- What changed lately is looked for every few seconds, among as many routes as there are subjects.
CREATE INDEX IF NOT EXISTS qmq_route_changes ON subject_route (update_time);
