-- Ours, beside the tables of QMQ.

-- Groups that an operator took from the route of a subject. They are not put back when the route is
-- short of groups, only by an operator.
CREATE TABLE IF NOT EXISTS qmq_removed_group (
    subject    TEXT NOT NULL,
    group_name TEXT NOT NULL,
    PRIMARY KEY (subject, group_name)
);
