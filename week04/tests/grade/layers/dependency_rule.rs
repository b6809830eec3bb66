//! Reads which names a module uses, from the tokens of its file.

use std::collections::BTreeSet;

use proc_macro2::{Delimiter, Group, Spacing, TokenStream, TokenTree};

/// The crates that the business layer may name.
const CRATES: [&str; 3] = ["std", "core", "week04_biz"];

/// Types that begin with a lower-case letter.
const PRIMITIVES: &str = "bool char str u8 u16 u32 u64 u128 usize i8 i16 i32 \
    i64 i128 isize f32 f64";

/// Macros of `std`.
const MACROS: &str = "assert assert_eq assert_ne cfg column compile_error \
    concat dbg debug_assert debug_assert_eq debug_assert_ne eprint eprintln \
    file format format_args line matches module_path panic print println \
    stringify todo unimplemented unreachable vec write writeln thread_local \
    macro_rules";

/// Keywords after which a path begins, or a `!` is no macro call.
const KEYWORDS: &str = "as async await break const continue dyn else enum \
    extern fn for if impl in let loop match mod move mut pub ref return static \
    struct trait type unsafe use where while";

/// Returns the paths in `mod biz { … }` of `file` that leave `biz`, other than
/// to `std`, `core` and `week04_biz`.
pub(crate) fn paths_out_of_biz(file: &str) -> Vec<String> {
    let file: TokenStream = file.parse().expect("the file has compiled");
    let file: Vec<_> = file.into_iter().collect();
    let is = |tree: &TokenTree, name: &str| tree.to_string() == name;
    let modules = file.windows(3).filter_map(|window| match window {
        [module, name, TokenTree::Group(body)]
            if is(module, "mod") && is(name, "biz") =>
        {
            Some(paths_out_of(body.stream()))
        }
        _ => None,
    });
    let modules: Vec<_> = modules.collect();
    if modules.is_empty() {
        return vec!["no `mod biz { … }` in the file".to_owned()];
    }
    modules.concat()
}

fn paths_out_of(module: TokenStream) -> Vec<String> {
    let mut tokens = Vec::new();
    flatten(module, &mut tokens);
    check(&tokens.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Appends the tokens of `stream`, and `::`, `->` and `=>` as one token each.
/// Literals are `""`. Lifetimes, documentation and lint attributes are left
/// out.
fn flatten(stream: TokenStream, tokens: &mut Vec<String>) {
    let mut trees = stream.into_iter().peekable();
    while let Some(tree) = trees.next() {
        match tree {
            TokenTree::Group(group) => {
                if is_attribute(tokens) && is_lint_or_doc(&group) {
                    continue;
                }
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                tokens.push(open.to_owned());
                flatten(group.stream(), tokens);
                tokens.push(close.to_owned());
            }
            TokenTree::Ident(ident) => {
                let ident = ident.to_string();
                tokens.push(ident.trim_start_matches("r#").to_owned());
            }
            TokenTree::Literal(_) => tokens.push("\"\"".to_owned()),
            TokenTree::Punct(punct) => {
                let joint = punct.spacing() == Spacing::Joint;
                let next = trees.peek().map(ToString::to_string);
                let next = next.as_deref().unwrap_or_default();
                match (punct.as_char(), next) {
                    ('\'', _) => drop(trees.next()),
                    (':', ":") | ('-' | '=', ">") if joint => {
                        tokens.push(format!("{punct}{next}"));
                        trees.next();
                    }
                    (punct, _) => tokens.push(punct.to_string()),
                }
            }
        }
    }
}

/// Returns whether the next group is the `[…]` of an attribute.
fn is_attribute(tokens: &[String]) -> bool {
    let mut last = tokens.iter().rev().map(String::as_str);
    match last.next() {
        Some("!") => last.next() == Some("#"),
        last => last == Some("#"),
    }
}

/// Returns whether an attribute with this content names no code.
fn is_lint_or_doc(content: &Group) -> bool {
    let names = "allow deny diagnostic doc expect forbid rustfmt warn";
    let first = content.stream().into_iter().next();
    first.is_some_and(|first| contains(names, &first.to_string()))
}

/// Returns whether `word` is in a list of words.
fn contains(list: &str, word: &str) -> bool {
    list.split_whitespace().any(|listed| listed == word)
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && !contains(KEYWORDS, token)
}

/// Returns whether the last token closes the parameters of `impl<…>` or
/// `for<…>`, after which a path begins.
fn ends_binder(tokens: &[&str]) -> bool {
    let mut open = 0;
    let start = tokens.iter().rposition(|&token| {
        open += match token {
            ">" => 1,
            "<" => -1,
            _ => 0,
        };
        open == 0
    });
    let before = start.and_then(|start| start.checked_sub(1));
    before.is_some_and(|before| contains("impl for", tokens[before]))
}

fn check(tokens: &[&str]) -> Vec<String> {
    let at = |i: usize| tokens.get(i).copied().unwrap_or_default();
    let before = |i: usize, n: usize| i.checked_sub(n).map_or("", at);
    let mut outside = Vec::new();
    // Each path, with the number of modules of `biz` around it.
    let mut paths = Vec::new();
    let mut local = BTreeSet::new();
    let mut macros = BTreeSet::new();
    let (mut braces, mut modules) = (0, Vec::new());
    let mut use_ends = 0;
    for (i, &token) in tokens.iter().enumerate() {
        let next = at(i + 1);
        match token {
            "{" => {
                braces += 1;
                if before(i, 2) == "mod" {
                    modules.push(braces);
                }
            }
            "}" => {
                if modules.last() == Some(&braces) {
                    modules.pop();
                }
                braces -= 1;
            }
            "mod" if at(i + 2) == "{" => drop(local.insert(next)),
            "mod" => outside.push(format!("mod {next};")),
            "macro_rules" if next == "!" => drop(macros.insert(at(i + 2))),
            "extern" if next == "crate" => {
                outside.push(format!("extern crate {}", at(i + 2)));
            }
            // `impl Trait + use<'a>` is no import.
            "use" if next != "<" => {
                let length = tokens[i..].iter().take_while(|&&t| t != ";");
                use_ends = i + length.count();
                for (path, name) in imports(&tokens[i + 1..use_ends]) {
                    local.extend(name);
                    paths.push((modules.len(), path));
                }
            }
            _ if i < use_ends || !is_name(token) => {}
            _ => {
                let is_absolute = before(i, 1) == "::"
                    && !is_name(before(i, 2))
                    && (before(i, 2) != ">" || ends_binder(&tokens[..i - 1]));
                let is_first = before(i, 1) != "::" || is_absolute;
                let is_scope = next == "::" && at(i + 2) != "<";
                let is_macro =
                    next == "!" && ["(", "[", "{"].contains(&at(i + 2));
                if is_first && (is_scope || is_absolute) {
                    let mut path =
                        if is_absolute { vec!["::"] } else { vec![] };
                    path.push(token);
                    let rest = tokens[i + 1..].chunks_exact(2);
                    let rest = rest
                        .take_while(|pair| pair[0] == "::" && is_name(pair[1]));
                    path.extend(rest.map(|pair| pair[1]));
                    paths.push((modules.len(), path));
                } else if is_first && is_macro {
                    paths.push((modules.len(), vec![token, "!"]));
                }
            }
        }
    }
    for (depth, path) in paths {
        let supers = path.iter().filter(|&&part| part == "super").count();
        let stays_inside = match path[..] {
            ["::", name, ..] => CRATES.contains(&name),
            [name, "!"] => contains(MACROS, name) || macros.contains(name),
            ["self" | "super", ..] => supers <= depth,
            [name, ..] => {
                CRATES.contains(&name)
                    || local.contains(name)
                    || contains(PRIMITIVES, name)
                    // A type that is in scope, such as one of the prelude.
                    || name.starts_with(char::is_uppercase)
            }
            [] => true,
        };
        if !stays_inside {
            let path = path.join("::").replace("::::", "::");
            outside.push(path.replace("::!", "!"));
        }
    }
    outside
}

/// Returns each path of an import, with the name that it introduces.
fn imports<'a>(tree: &[&'a str]) -> Vec<(Vec<&'a str>, Option<&'a str>)> {
    let mut imports = Vec::new();
    // The parts before each open brace, and those since the last one.
    let (mut prefixes, mut path) = (Vec::new(), Vec::new());
    let mut tokens = tree.iter().copied().peekable();
    while let Some(token) = tokens.next() {
        match token {
            "::" if path.is_empty() && prefixes.is_empty() => path.push("::"),
            "::" => {}
            "{" => prefixes.push(std::mem::take(&mut path)),
            "," => path.clear(),
            "}" => {
                path.clear();
                prefixes.pop();
            }
            _ => {
                path.push(token);
                if tokens.peek() == Some(&"::") {
                    continue;
                }
                let full = [&prefixes.concat()[..], &path].concat();
                let alias =
                    tokens.next_if_eq(&"as").and_then(|_| tokens.next());
                let last = full.iter().rev().find(|&&part| part != "self");
                let name = alias.or(last.copied());
                imports.push((full, name));
            }
        }
    }
    imports
}
