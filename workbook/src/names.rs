//! "Did you mean …?"

/// Returns the one of `names` that is most like `name`, if one is like it.
pub fn nearest<'a>(
    names: impl Iterator<Item = &'a str>,
    name: &str,
) -> Option<&'a str> {
    let (far, near) = names.map(|near| (distance(near, name), near)).min()?;
    (far <= name.len().max(3) / 2).then_some(near)
}

/// Returns the Levenshtein distance: how many letters to add, drop or change.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.bytes().enumerate() {
            let change = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn distance_counts_letters_added_dropped_and_changed() {
        assert_eq!(distance("no_rows", "no_rows"), 0);
        assert_eq!(distance("no_rows", "norows"), 1);
        assert_eq!(distance("no_rows", "no_rowss"), 1);
        assert_eq!(distance("context", "kontext"), 1);
        assert_eq!(distance("", "swap"), 4);
    }
}
