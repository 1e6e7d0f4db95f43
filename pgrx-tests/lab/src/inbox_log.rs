//! The log of an inbox, filled by hand.

/// Creates a subscription `s` with the number 1000. Its one partition is stopped, so the worker reads nothing; whoever wants
/// events inserts them into `inbox.log_0`.
pub fn subscription(ordering: &str) -> String {
    format!(
        "INSERT INTO inbox.subscription (id, name, owner, source_id, topics, ordering, retention, max_attempts,
                                         on_data_loss, first_position)
         OVERRIDING SYSTEM VALUE
         VALUES (1000, 's', current_user::regrole, 1000, '{{t}}', '{ordering}', '1 day', 3, 'stop', 0);
         INSERT INTO inbox.partition (source_id, number, topic, partition, start_offset, first_position, state,
                                      stop_reason, stopped_at)
         VALUES (1000, 0, 't', 0, 0, 0, 'stopped', 'a test', now());
         INSERT INTO inbox.segment (number, first_position) VALUES (0, 1);"
    )
}
