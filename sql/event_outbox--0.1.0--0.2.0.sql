-- From 0.1.0 to 0.2.0. What stands in the other files of this directory, as far as 0.1.0 lacks it.

COMMENT ON COLUMN outbox.status.state IS
    'absent, starting, idle, publishing, waiting (for Kafka), failing (in the database), misconfigured, disabled, incompatible (with this version of the extension) or stopping.';
