//! Owns the templates of topics and event types: text with names in braces.

use std::fmt;

/// What a name in braces stands for.
pub type Value<'a> = (&'a str, &'a str);

/// Why a template is invalid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplateError {
    /// The name in braces stands for nothing.
    Unknown(String),
    /// A brace has no partner.
    Unbalanced,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => write!(f, "There is no \"{{{name}}}\"."),
            Self::Unbalanced => f.write_str("A brace is not closed, or not opened."),
        }
    }
}

/// Puts the values in the place of their names. What they contain is not looked at again.
///
/// # Errors
/// The first fault of the template.
pub fn expand(template: &str, values: &[Value<'_>]) -> Result<String, TemplateError> {
    let mut out = String::new();
    let mut rest = template;
    while let Some(brace) = rest.find(['{', '}']) {
        out.push_str(&rest[..brace]);
        let name = rest[brace..].strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let (name, after) = name.filter(|(name, _)| !name.contains('{')).ok_or(TemplateError::Unbalanced)?;
        let found = values.iter().find(|(known, _)| *known == name);
        let (_, value) = found.ok_or_else(|| TemplateError::Unknown(name.into()))?;
        out.push_str(value);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VALUES: [Value<'_>; 2] = [("namespace", "shop"), ("resource", "{orders}")];

    #[test]
    fn names_are_replaced_once() {
        let cases = [
            ("io.{namespace}.{resource}.resource", "io.shop.{orders}.resource"),
            ("{namespace}{namespace}", "shopshop"),
            ("plain", "plain"),
            ("", ""),
        ];
        for (template, expanded) in cases {
            assert_eq!(expand(template, &VALUES).as_deref(), Ok(expanded), "{template}");
        }
    }

    #[test]
    fn faults_are_named() {
        assert_eq!(expand("a.{table}", &VALUES), Err(TemplateError::Unknown("table".into())));
        assert_eq!(expand("{}", &VALUES), Err(TemplateError::Unknown(String::new())));
        for template in ["{namespace", "namespace}", "{a{namespace}}", "}{"] {
            assert_eq!(expand(template, &VALUES), Err(TemplateError::Unbalanced), "{template}");
        }
    }

    proptest! {
        #[test]
        fn text_without_braces_stays(text in "[^{}]*") {
            prop_assert_eq!(expand(&text, &VALUES), Ok(text));
        }

        #[test]
        fn any_text_is_expanded_or_refused(text in "\\PC*") {
            let _ = expand(&text, &VALUES);
        }
    }
}
