//! The simple JSON paths of definitions: `.spec.a`, `.metadata.labels['a.b/c']`.

/// The segments of a simple path; the flag tells bracketed names from dotted ones.
pub(crate) fn segments(path: &str) -> Vec<(String, bool)> {
    let mut out = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("['") {
            let mut name = String::new();
            let mut chars = after.char_indices();
            let mut end = after.len();
            while let Some((i, c)) = chars.next() {
                match c {
                    '\\' => name.extend(chars.next().map(|(_, c)| c)),
                    '\'' => {
                        end = i;
                        break;
                    }
                    c => name.push(c),
                }
            }
            out.push((name, true));
            rest = after.get(end + 1..).unwrap_or_default().trim_start_matches(']');
        } else {
            let dotted = rest.strip_prefix('.').unwrap_or(rest);
            let end = dotted.find(['.', '[']).unwrap_or(dotted.len());
            if end > 0 {
                out.push((dotted[..end].to_owned(), false));
            }
            rest = &dotted[end..];
            if end == 0 && !rest.starts_with("['") && !rest.is_empty() {
                rest = &rest[1..]; // a stray bracket: skip it rather than loop
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_and_brackets_are_told_apart() {
        let names = |path: &str| segments(path).into_iter().map(|(n, _)| n).collect::<Vec<_>>();
        assert_eq!(names(".spec.a"), ["spec", "a"]);
        assert_eq!(names(".metadata.labels['a.b/c'].x"), ["metadata", "labels", "a.b/c", "x"]);
        assert_eq!(names(".x['it\\'s']"), ["x", "it's"]);
    }
}
