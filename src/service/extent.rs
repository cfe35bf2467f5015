//! How much a document holds, told from its text without building anything: two bytes of it become dozens in memory. Of a
//! text that is no JSON it means nothing.

/// What was counted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Elements of the list itself; of an object, its members.
    pub(super) items: usize,
    /// Values of any depth, the document included.
    pub(super) values: usize,
}

impl Extent {
    pub(super) fn of(text: &[u8]) -> Self {
        let mut extent = Self {
            items: 0,
            values: 1,
        };
        let mut depth = 0_usize;
        // Whether the innermost list or object has had something in it yet.
        let mut empty = false;
        let mut bytes = text.iter();
        while let Some(byte) = bytes.next() {
            match byte {
                b' ' | b'\n' | b'\r' | b'\t' => continue,
                b']' | b'}' => {
                    depth = depth.saturating_sub(1);
                    empty = false;
                    continue;
                }
                b',' => {
                    extent.values += 1;
                    extent.items += usize::from(depth == 1);
                    continue;
                }
                _ => {}
            }
            if empty {
                extent.values += 1;
                extent.items += usize::from(depth == 1);
            }
            empty = matches!(byte, b'[' | b'{');
            match byte {
                b'[' | b'{' => depth += 1,
                b'"' => {
                    while bytes.next().is_some_and(|byte| match byte {
                        b'\\' => bytes.next().is_some(),
                        other => *other != b'"',
                    }) {}
                }
                _ => {}
            }
        }
        extent
    }
}

#[cfg(test)]
mod tests {
    use super::Extent;

    #[test]
    fn what_a_list_holds_is_counted_without_building_it() {
        let cases = [
            ("[]", 0, 1),
            (" [ ] ", 0, 1),
            ("[1]", 1, 2),
            ("[1,2 , 3]", 3, 4),
            ("[[],[[]],{}]", 3, 5),
            (r#"[{"a":1,"b":[2,3]},{}]"#, 2, 7),
            (r#"["a,b","[\"]"]"#, 2, 3),
            (r#"["\\",{"k,":"]"}]"#, 2, 4),
            ("", 0, 1),
            ("{", 0, 1),
        ];
        for (text, items, values) in cases {
            assert_eq!(
                Extent::of(text.as_bytes()),
                Extent { items, values },
                "{text}"
            );
        }
    }
}
