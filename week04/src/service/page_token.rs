//! Page tokens: the position of the last comment, and the query it belongs to.
//!
//! It is tempting to count rows (`OFFSET 100`). But then a comment that is
//! created or deleted between two pages shifts all others, and one is read
//! twice or never. A position stays where it is.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use week04_biz::{CommentId, Invalid, Order, Position, Query};

/// Writes a token.
pub(super) fn write(query: &Query, Position { key, id }: Position) -> String {
    let text = format!("{}/{key}/{id}", prefix(query));
    BASE64_URL_SAFE_NO_PAD.encode(text)
}

/// Reads a token, and checks that it was written for `query`.
pub(super) fn read(token: &str, query: &Query) -> Result<Position, Invalid> {
    let parse = || {
        let text = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
        let text = String::from_utf8(text).ok()?;
        let position = text.strip_prefix(&prefix(query))?.strip_prefix('/')?;
        let (key, id) = position.split_once('/')?;
        let id = CommentId(id.parse().ok()?);
        Some(Position { key: key.parse().ok()?, id })
    };
    let problem = "expected the token of the page before, and the same query";
    parse().ok_or(Invalid { field: "page_token", problem })
}

/// All that must stay the same from page to page. Neither part contains `/`.
fn prefix(query: &Query) -> String {
    let order = match query.order {
        Order::Newest => 'n',
        Order::Oldest => 'o',
        Order::MostLiked => 'l',
    };
    let parent = query.reply_to.map_or(0, |id| id.0);
    format!("1/{}/{parent}/{order}", query.subject)
}
