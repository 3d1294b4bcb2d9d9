//! Shell patterns in pool names (upstream's contract: annotations, §1.4), with the meaning of Go's `path.Match`.

/// A pool name that may be a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(char),
    Any,
    Run,
    Class { negated: bool, ranges: Vec<(char, char)> },
}

/// A pattern that does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pool name pattern '{0}'")]
pub struct PatternError(pub String);

impl Pattern {
    /// Whether a name is a pattern: it contains `?`, `*`, or both `[` and `]`.
    pub fn is_pattern(name: &str) -> bool {
        name.contains(['?', '*']) || (name.contains('[') && name.contains(']'))
    }

    /// Parses a pattern: `*` any run without `/`, `?` one character, `[...]` classes, `\` escapes.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let mut rest = text.chars().peekable();
        let mut parts = Vec::new();
        let wrong = || PatternError(text.to_owned());
        while let Some(next) = rest.next() {
            parts.push(match next {
                '*' => Part::Run,
                '?' => Part::Any,
                '\\' => Part::Literal(rest.next().ok_or_else(wrong)?),
                '[' => class(&mut rest).ok_or_else(wrong)?,
                literal => Part::Literal(literal),
            });
        }
        Ok(Self { text: text.to_owned(), parts })
    }

    /// The text it was parsed from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the whole of `name` matches.
    pub fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        // Greedy matching that remembers only the last `*`: linear in practice, never exponential.
        let (mut at, mut part, mut retry) = (0, 0, None::<(usize, usize)>);
        loop {
            match self.parts.get(part) {
                None if at == name.len() => return true,
                Some(Part::Run) => {
                    part += 1;
                    retry = Some((at, part));
                    continue;
                }
                Some(one) if name.get(at).is_some_and(|c| one.takes(*c)) => {
                    (at, part) = (at + 1, part + 1);
                    continue;
                }
                _ => {}
            }
            match retry {
                Some((start, after)) if name.get(start).is_some_and(|c| *c != '/') => {
                    retry = Some((start + 1, after));
                    (at, part) = (start + 1, after);
                }
                _ => return false,
            }
        }
    }
}

impl Part {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Literal(literal) => *literal == c,
            Self::Any => c != '/',
            Self::Run => false,
            Self::Class { negated, ranges } => ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated,
        }
    }
}

/// The rest of a class after `[`; `None` when it is malformed. As in Go, a class is never empty and its first
/// character may not be a bare `]` or `-`.
fn class(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Part> {
    let negated = rest.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && rest.next_if_eq(&']').is_some() {
            return Some(Part::Class { negated, ranges });
        }
        let low = class_char(rest)?;
        let high = if rest.next_if_eq(&'-').is_some() { class_char(rest)? } else { low };
        ranges.push((low, high));
    }
}

fn class_char(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    match rest.next()? {
        '-' | ']' => None,
        '\\' => rest.next(),
        c => Some(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_like_go_path_match() {
        let rows = [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "abc", true),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", false),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("a?b", "a/b", false),
            ("a*b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[\\-]", "-", true),
            ("[x\\-]", "x", true),
            ("[x\\-]", "z", false),
            ("*x", "xxx", true),
            ("", "", true),
            ("", "a", false),
        ];
        for (pattern, name, expected) in rows {
            assert_eq!(Pattern::parse(pattern).unwrap().matches(name), expected, "{pattern} on {name}");
        }
    }

    #[test]
    fn malformed_patterns_are_errors() {
        for pattern in ["[]a]", "[-]", "[x-]", "[-x]", "\\", "[a-b-c]", "[", "[^", "[^bc", "a[", "[a-"] {
            assert!(Pattern::parse(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn brackets_make_a_pattern_only_as_a_pair() {
        let rows = [("a", false), ("a*", true), ("a?", true), ("[a]", true), ("[a", false), ("a]", false)];
        for (name, expected) in rows {
            assert_eq!(Pattern::is_pattern(name), expected, "{name}");
        }
    }
}
