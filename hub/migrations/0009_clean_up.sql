-- What a host removes by itself, and what it removed: as its agent last reported it.
ALTER TABLE host_report ADD COLUMN clean_up jsonb NOT NULL DEFAULT '{}';
