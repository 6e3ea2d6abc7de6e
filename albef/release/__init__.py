"""Decision whether an export may go to production: measurement, gate, canary and attestation."""
