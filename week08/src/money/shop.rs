//! A shop, and what a payment company tells it.
//!
//! These types are given for the exercise on payment notifications. A real body
//! is JSON or XML. Here it is one line, which is read with [`str::parse`].

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// A payment, as the payment company or the shop has recorded it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Payment {
    /// The order of the shop.
    pub order: u64,
    /// The amount in the smallest unit of the currency.
    pub cents: u64,
    /// Such as `CNY`.
    pub currency: String,
    /// When the customer paid, in seconds since 1970.
    pub paid_s: u64,
}

/// The body of a notification: this order is paid. The text is `9 7 100 CNY
/// 1000`: the id, the order, the amount, the currency and the time.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Notice {
    /// The id of the notification. It stays the same when the notification is
    /// sent again. If the company creates a new notification for the same
    /// payment, it has another id.
    pub id: u64,
    /// The payment.
    pub payment: Payment,
}

/// A difference between the records of both sides.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Difference {
    /// The payment company (there) has it, and the shop (here) has not.
    MissingHere(Payment),
    /// The shop has it, and the payment company has not.
    MissingThere(Payment),
    /// Both have it, and the amounts or the currencies differ.
    Amount {
        /// The record of the shop.
        here: Payment,
        /// The record of the payment company.
        there: Payment,
    },
}

/// How far an order is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// The shop has not handled a payment of it.
    Unpaid,
    /// It is paid, and the player does not have the item yet.
    Paid,
    /// The player has the item.
    Delivered,
}

/// A row of [`Table::Orders`](super::Table::Orders), by the id of the order. The
/// text is `unpaid 5 100 CNY`: the state, the player, the amount and the
/// currency.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Order {
    /// How far it is.
    pub state: State,
    /// The account that counts the items of the player.
    pub player: u64,
    /// What the player has to pay.
    pub cents: u64,
    /// In which currency.
    pub currency: String,
}

/// A request of HTTP that carries a notification. The values of its headers have
/// no line feeds: HTTP does not allow them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Request {
    /// A header: which of the shared keys has signed the request.
    pub key_id: String,
    /// A header: when it was signed, in seconds since 1970.
    pub timestamp: String,
    /// A header: random, different in each request.
    pub nonce: String,
    /// The body, as it has arrived.
    pub body: Vec<u8>,
    /// A header: the HMAC-SHA256.
    pub signature: Vec<u8>,
}

/// The text is no [`Notice`], or no [`Order`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the text has not the right fields")]
pub struct ParseError;

impl Difference {
    /// Compares two records of one order. Returns none if they are equal, or if
    /// the difference belongs to another day. The payment company's time
    /// decides, if it has a record.
    pub fn of(
        here: Option<Payment>,
        there: Option<Payment>,
        day_s: &Range<u64>,
    ) -> Option<Self> {
        let dated = there.as_ref().or(here.as_ref())?;
        if !day_s.contains(&dated.paid_s) {
            return None;
        }
        match (here, there) {
            (Some(here), Some(there)) => {
                let is_equal = here.cents == there.cents
                    && here.currency == there.currency;
                (!is_equal).then_some(Self::Amount { here, there })
            }
            (Some(here), None) => Some(Self::MissingThere(here)),
            (None, there) => there.map(Self::MissingHere),
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Payment { order, cents, currency, paid_s } = &self.payment;
        write!(f, "{} {order} {cents} {currency} {paid_s}", self.id)
    }
}

impl FromStr for Notice {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let fields: Vec<_> = text.split(' ').collect();
        let [id, order, cents, currency, paid_s] = fields[..] else {
            return Err(ParseError);
        };
        let payment = Payment {
            order: number(order)?,
            cents: number(cents)?,
            currency: currency.to_owned(),
            paid_s: number(paid_s)?,
        };
        Ok(Self { id: number(id)?, payment })
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { state, player, cents, currency } = self;
        let state = format!("{state:?}").to_lowercase();
        write!(f, "{state} {player} {cents} {currency}")
    }
}

impl FromStr for Order {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let fields: Vec<_> = text.split(' ').collect();
        let [state, player, cents, currency] = fields[..] else {
            return Err(ParseError);
        };
        let state = match state {
            "unpaid" => State::Unpaid,
            "paid" => State::Paid,
            "delivered" => State::Delivered,
            _ => return Err(ParseError),
        };
        let (player, cents) = (number(player)?, number(cents)?);
        Ok(Self { state, player, cents, currency: currency.to_owned() })
    }
}

fn number(text: &str) -> Result<u64, ParseError> {
    text.parse().map_err(|_| ParseError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_and_an_order_are_read_back_from_their_texts() {
        for number in [0, 1, u64::MAX] {
            let currency = "CNY".to_owned();
            let (order, cents, paid_s) = (number, number, number);
            let payment = Payment { order, cents, currency, paid_s };
            let notice = Notice { id: number, payment };
            assert_eq!(notice.to_string().parse(), Ok(notice));
            for state in [State::Unpaid, State::Paid, State::Delivered] {
                let currency = "CNY".to_owned();
                let order = Order { state, player: number, cents, currency };
                assert_eq!(order.to_string().parse(), Ok(order));
            }
        }
        for text in ["", "1 2 3 CNY", "1 2 3 CNY x", "1 2 -3 CNY 5"] {
            assert_eq!(text.parse::<Notice>(), Err(ParseError), "{text:?}");
        }
        for text in ["", "unpaid 5 100", "Unpaid 5 100 CNY"] {
            assert_eq!(text.parse::<Order>(), Err(ParseError), "{text:?}");
        }
    }
}
