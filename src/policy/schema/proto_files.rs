//! Several Protobuf files in one definition: each but the first follows a line with its name.

/// Begins that line.
const FILE: &str = "\n// event_outbox file: ";

/// Appends a file.
pub fn append(definition: &mut String, name: &str, file: &str) {
    definition.push_str(FILE);
    definition.push_str(name);
    definition.push('\n');
    definition.push_str(file);
}

/// The first file, and those that follow it with their names.
#[must_use]
pub fn split(definition: &str) -> (&str, Vec<(&str, &str)>) {
    let mut files = definition.split(FILE);
    let first = files.next().unwrap_or_default();
    (first, files.map(|file| file.split_once('\n').unwrap_or((file, ""))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_appended_is_split() {
        let mut definition = "a".to_owned();
        append(&mut definition, "b.proto", "b\nb");
        append(&mut definition, "c.proto", "");
        assert_eq!(split(&definition), ("a", vec![("b.proto", "b\nb"), ("c.proto", "")]));
        assert_eq!(split("alone"), ("alone", vec![]));
    }
}
