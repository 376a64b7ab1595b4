-- Return hosts are looked up by strangers.
CREATE INDEX domain_by_return_host ON domain (return_path_host) WHERE return_path_host IS NOT NULL;

-- The rows of earlier secrets have it.
ALTER TABLE webhook DROP COLUMN previous_until_us;

-- Grows each time that a pause with this end ends before its deliveries are due.
ALTER TABLE ended_pause ADD COLUMN round BIGINT NOT NULL DEFAULT 1;

-- The number of reports that belong to no message, counted by triggers: anybody can send them.
CREATE TABLE unattributed_report_count (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    reports  BIGINT NOT NULL
);
INSERT INTO unattributed_report_count SELECT 1, count(*) FROM report WHERE tenant_id IS NULL;
CREATE TRIGGER unattributed_report_added AFTER INSERT ON report WHEN NEW.tenant_id IS NULL BEGIN
    UPDATE unattributed_report_count SET reports = reports + 1;
END;
CREATE TRIGGER unattributed_report_removed AFTER DELETE ON report WHEN OLD.tenant_id IS NULL BEGIN
    UPDATE unattributed_report_count SET reports = reports - 1;
END;
