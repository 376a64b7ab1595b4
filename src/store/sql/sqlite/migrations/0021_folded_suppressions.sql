-- Suppressed addresses are folded by Unicode, not only in lower case. `folded_address` is a function of this program;
-- ASCII addresses stay as they are. Of addresses that become equal, the one that is suppressed longest stays.
CREATE TEMP TABLE refolded AS
SELECT id, tenant_id, expires_us, folded_address(address) AS address
FROM suppression WHERE address GLOB '*[^ -~]*';

INSERT INTO refolded
SELECT DISTINCT same.id, same.tenant_id, same.expires_us, same.address
FROM refolded JOIN suppression same ON same.address = refolded.address AND same.tenant_id IS refolded.tenant_id
WHERE same.id NOT IN (SELECT id FROM refolded);

DELETE FROM suppression WHERE id IN (
    SELECT id FROM (
        SELECT id, row_number() OVER (
            PARTITION BY tenant_id, address ORDER BY expires_us IS NOT NULL, expires_us DESC, id) AS place
        FROM refolded)
    WHERE place > 1);

UPDATE suppression SET address = (SELECT address FROM refolded WHERE refolded.id = suppression.id)
WHERE id IN (SELECT id FROM refolded);

DROP TABLE refolded;
