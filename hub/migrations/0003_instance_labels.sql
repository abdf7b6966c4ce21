-- Labels of an instance, for people and selectors.
ALTER TABLE instance ADD COLUMN labels jsonb NOT NULL DEFAULT '{}';
