-- The names that the code and the API use.
ALTER TABLE delivery RENAME COLUMN last_class TO bounce_class;
ALTER TABLE attempt RENAME COLUMN class TO bounce_class;
ALTER TABLE hold RENAME TO pause;
ALTER TABLE kept_answer RENAME TO idempotent_response;
DROP INDEX kept_answer_by_age;
CREATE INDEX idempotent_response_by_age ON idempotent_response (created_us);
