//! What a role must not be able to do, see or break.

mod chosen_values;
mod hostile;
mod privileges;
mod search_path;
mod secrets;
mod topic_administration;
mod topic_grants;
