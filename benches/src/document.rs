//! Puts tables into a page, between the marks for them.

use std::fs;
use std::path::Path;

use crate::fail::{Fail, Outcome};

/// Replaces what stands between the marks `<!-- NAME: begin -->` and `<!-- NAME: end -->`.
pub(crate) fn replace(file: &Path, name: &str, text: &str) -> Outcome<()> {
    let shown = file.display();
    let page = fs::read_to_string(file).map_err(Fail::of(format!("cannot read {shown}")))?;
    let page = between(&page, name, text).ok_or_else(|| {
        Fail(format!(
            "{shown} has no marks <!-- {name}: begin --> and <!-- {name}: end -->"
        ))
    })?;
    fs::write(file, page).map_err(Fail::of(format!("cannot write {shown}")))
}

fn between(page: &str, name: &str, text: &str) -> Option<String> {
    let (begin, end) = (
        format!("<!-- {name}: begin -->\n"),
        format!("<!-- {name}: end -->"),
    );
    let (before, rest) = page.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}\n{}\n\n{end}{after}", text.trim()))
}

#[cfg(test)]
mod tests {
    use super::between;

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let page = "a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n";
        let new = between(page, "x", "new\n").unwrap();
        assert_eq!(new, "a\n<!-- x: begin -->\n\nnew\n\n<!-- x: end -->\nb\n");
        assert_eq!(between(&new, "x", "new\n").unwrap(), new, "again is the same");
        assert_eq!(between(page, "y", "new"), None);
    }
}
