-- The names that the code and the API use, and a position in the journal that is no id.
ALTER TABLE delivery RENAME COLUMN last_class TO bounce_class;
ALTER TABLE attempt RENAME COLUMN class TO bounce_class;
ALTER TABLE hold RENAME TO pause;
ALTER TABLE kept_answer RENAME TO idempotent_response;
DROP INDEX kept_answer_by_age;
CREATE INDEX idempotent_response_by_age ON idempotent_response (created_us);
ALTER TABLE search_progress RENAME COLUMN up_to TO cursor;
UPDATE search_progress SET cursor = 'cur_' || substr(cursor, 5);
