-- What a rotation of the CA and the recovery of a device have to know of each certificate.

-- Id of the CA key that signed it, in hexadecimal.
ALTER TABLE certificates ADD COLUMN issuer TEXT NOT NULL DEFAULT '';
-- The public key, an uncompressed point of P-256: a recovering device proves that it holds the private half.
ALTER TABLE certificates ADD COLUMN key_point {bytes};
-- When a device first connected with it. From then on the older certificates of the device are replaced.
ALTER TABLE certificates ADD COLUMN used_ms {int};
CREATE INDEX certificates_by_issuer ON certificates (issuer, not_after_s);
