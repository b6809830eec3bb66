//! The business layer depends on no driver, no transport and no generated type.

#[path = "grade/layers/dependency_rule.rs"]
mod dependency_rule;

use dependency_rule::paths_out_of_biz;

/// The crates that `week04-biz` may depend on. `thiserror` only generates
/// implementations of traits of `std`.
const ALLOWED: [&str; 1] = ["thiserror"];

#[test]
fn the_business_layer_depends_only_on_thiserror() {
    let manifest = include_str!("../biz/Cargo.toml");
    let mut section = "";
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']);
            // `[dependencies.sqlx]` and `[target.….dependencies]`.
            let (table, name) = section.rsplit_once('.').unwrap_or_default();
            assert!(
                !name.ends_with("dependencies") && table != "dependencies",
                "expected the dependencies of week04-biz in `[dependencies]`, \
                 got {line}"
            );
            continue;
        }
        let Some((name, _)) = line.split_once('=') else { continue };
        let name = name.split('.').next().unwrap_or_default().trim();
        assert!(
            section != "dependencies" || ALLOWED.contains(&name),
            "week04-biz depends on `{name}`. The business layer may depend on \
             {ALLOWED:?} only: with a driver, a transport or generated types \
             in it, a change of the database or of the contract is a change \
             of the rules, and the rules cannot be tested without them"
        );
    }
}

#[test]
fn a_module_that_stays_inside_has_no_paths_out_of_it() {
    for biz in [
        "",
        "use week04_biz::{CommentId, Error};",
        "use week04_biz as domain; fn f(_: domain::Error) {}",
        "use week04_biz::{self, self as domain, Error as E};",
        "use {std::fmt, core::future::Future}; impl fmt::Debug for X {}",
        "use ::std::{collections::{BTreeMap as Map, *}, io};",
        "pub use self::ports::Port; mod ports { pub trait Port {} }",
        "pub use ports::Port; mod ports { use super::*; pub trait Port {} }",
        "mod a { mod b { use super::super::X; fn f(_: super::X) {} } }",
        "fn f(_: ::week04_biz::Error) -> ::core::result::Result<(), ()> {}",
        "fn f() { i64::from(1u8); str::len(\"\"); String::new(); }",
        "fn f() { drop(vec![1].iter().sum::<i64>()); g::<u8>(); }",
        "fn f(a: bool) { if !(a) { panic!(\"sqlx::Error\") } }",
        "fn f(a: u8) -> bool { a != 1 && matches!(a, 2 | 3) }",
        "pub(crate) struct A(pub(super) u8); // use super::data;\n",
        "/// See [`sqlx::Error`] and `crate::data`.\nstruct A;",
        "#![expect(clippy::all)] #[derive(Debug)] struct A<'a>(&'a str);",
        "macro_rules! id { ($a:expr) => { $a } } fn f() { id!(1); }",
        "fn f<'a>(a: &'a str) -> impl Sized + use<'a> { a }",
        "fn f<T: Into<E>, E>(e: <T as TryInto<E>>::Error) {}",
        "impl<T> A for Vec<T> { fn f() { <Vec<T>>::g(); Vec::<T>::h(); } }",
        "use std::pin::Pin; fn f() { Box::pin(async move { Self::g() }); }",
    ] {
        let file =
            format!("use sqlx::A; pub mod biz {{ {biz} }} mod data {{}}");
        assert_eq!(
            paths_out_of_biz(&file),
            Vec::<String>::new(),
            "expected no path out of biz in {biz:?}"
        );
    }
}

#[test]
fn every_path_out_of_the_module_is_found() {
    for (biz, path) in [
        ("use sqlx as db;", "sqlx"),
        ("use sqlx::Error as E;", "sqlx::Error"),
        ("use {std::fmt, tonic::{Code, Status}};", "tonic::Code"),
        ("use ::{std::io, prost::Message};", "::prost::Message"),
        ("fn f(_: sqlx::Error) {}", "sqlx::Error"),
        ("fn f() -> ::sqlx::Result<()> {}", "::sqlx::Result"),
        ("fn f(_: &'static ::sqlx::Error) {}", "::sqlx::Error"),
        ("impl From<<tokio::A as B>::C> for D {}", "tokio::A"),
        ("impl<R: A<B>> ::tonic::A for C<R> {}", "::tonic::A"),
        ("fn f(_: impl for<'a> ::sqlx::A<'a>) {}", "::sqlx::A"),
        ("use super::data::SqlLikes;", "super::data::SqlLikes"),
        ("pub use super::rules::*;", "super::rules::*"),
        ("use self::super::data;", "self::super::data"),
        ("struct A<R = super::data::B>(R);", "super::data::B"),
        ("mod a { use super::super::data; }", "super::super::data"),
        ("mod a { use super::{super::data}; }", "super::super::data"),
        ("mod a {} fn f() { super::g() }", "super::g"),
        ("use crate::data;", "crate::data"),
        ("fn f() { crate::data::g(); }", "crate::data::g"),
        ("fn f() { g(|| crate::A) }", "crate::A"),
        ("extern crate sqlx as std_sql;", "extern crate sqlx"),
        ("fn f() { use axum::Router; }", "axum::Router"),
        ("fn f() { matches!(e, sqlx::Error::A) }", "sqlx::Error::A"),
        ("fn f() { r#sqlx::query(q) }", "sqlx::query"),
        ("fn f() { smuggle!() }", "smuggle!"),
        ("include!(\"other.rs\");", "include!"),
        ("macro_rules! a { () => { $crate::b() } }", "crate::b"),
        ("#[path = \"../data.rs\"] mod data;", "mod data;"),
        ("mod rules;", "mod rules;"),
        ("#[tokio::main] async fn f() {}", "tokio::main"),
        ("#[derive(thiserror::Error)] struct A;", "thiserror::Error"),
        ("#[cfg_attr(all(), tokio::main)] fn f() {}", "tokio::main"),
    ] {
        let file = format!("mod data {{}} mod biz {{ {biz} }}");
        let paths = paths_out_of_biz(&file);
        assert!(
            paths.iter().any(|found| found == path),
            "expected the path {path} out of biz in {biz:?}, got {paths:?}"
        );
    }
    let none = paths_out_of_biz("mod rules {} pub use rules as biz;");
    assert_eq!(none, ["no `mod biz { … }` in the file"]);
}
