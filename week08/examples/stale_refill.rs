//! In how many orders of their steps do a reader and a writer leave an old
//! value in the cache?
//!
//! ```console
//! $ cargo run --release -p week08 --example stale_refill
//! $ cargo run -p week08 --example stale_refill -- --order delete_first
//! ```

#[path = "../tests/grade/lease/schedules.rs"]
mod schedules;

use std::collections::HashMap;
use std::error::Error;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use lab::guess;
use schedules::{CONFIG, Client, Key, NO_LEASE, OLD, Report, Run, Step, Store};
use week08::lease::{Action, Event, Lookup, Writer};

#[derive(Parser)]
struct Arguments {
    /// Only this order.
    #[arg(long, value_enum)]
    order: Option<Order>,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Order {
    /// Delete, then commit.
    DeleteFirst,
    /// Commit, then set the new value.
    WriteThrough,
    /// Delete, commit, wait for a second, delete.
    DelayedDoubleDelete,
    /// Commit, then delete, with a cache that has no leases.
    NoLease,
    /// Commit, then delete, with leases.
    Lease,
}

fn main() -> Result<(), Box<dyn Error>> {
    let orders = match Arguments::parse().order {
        Some(order) => vec![order],
        None => Order::value_variants().to_vec(),
    };
    let guess = if orders.len() > 1 {
        guess::ask(
            "An empty cache, and a database with the price 10. A reader gets \
             (a miss), loads, and sets.\nA writer deletes, and commits 11. \
             These five steps have 10 orders. How many of them\nleave the \
             price 10 in the cache?",
        )?
    } else {
        None
    };
    for order in &orders {
        let report = explore(*order, 1, 1);
        let (name, schedules) = (name(*order), report.schedules);
        let guess = guess.as_deref().filter(|_| *order == Order::DeleteFirst);
        let remark = guess::remark(guess, report.wrong);
        println!("\n{name}: {} of {schedules} go wrong.{remark}", report.wrong);
        let counterexample = match report.shortest {
            Some(_) => report.shortest,
            None => explore(*order, 1, 2).shortest,
        };
        for line in counterexample.iter().flatten() {
            println!("  {line}");
        }
    }
    println!("\nOrders of the steps, and how many of them go wrong:\n");
    println!("{:21} 1 reader, 1 writer  1 reader, 2 writers", "order");
    for order in &orders {
        let [one, two] = [1, 2].map(|writers| explore(*order, 1, writers));
        println!(
            "{:21} {:8} {:9} {:10} {:9}",
            name(*order),
            one.schedules,
            one.wrong,
            two.schedules,
            two.wrong
        );
    }
    if orders.contains(&Order::Lease) {
        let Report { schedules, wrong, .. } = explore(Order::Lease, 2, 2);
        println!(
            "\nWith leases, 2 readers and 2 writers have {schedules} orders, \
             and {wrong} go wrong."
        );
    }
    Ok(())
}

fn name(order: Order) -> String {
    let value = order.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Runs the clients, with one key, in all orders of their steps.
fn explore(order: Order, readers: usize, writers: usize) -> Report {
    let now = Instant::now();
    schedules::explore(usize::MAX, || {
        let readers = (1..=readers).map(|i| Client::reader(i, "price"));
        let writers = (1..=writers).map(|i| {
            let step = writer(order, OLD + i as u64);
            Client::new(format!("writer {i}"), "price", step)
        });
        let store = match order {
            Order::Lease => schedules::with_leases(now),
            _ => without_leases(),
        };
        Run::new(now, store, readers.chain(writers).collect(), [0, 0])
    })
}

fn writer(order: Order, value: u64) -> Step {
    let commit = Action::Commit(value);
    let actions = match order {
        Order::DeleteFirst => vec![Action::Delete, commit],
        Order::WriteThrough => vec![commit, Action::Fill(NO_LEASE, value)],
        Order::DelayedDoubleDelete => {
            let wait = Action::Wait(Duration::from_secs(1));
            vec![Action::Delete, commit, wait, Action::Delete]
        }
        Order::NoLease | Order::Lease => {
            let mut writer = Writer::new(value);
            return Box::new(move |event| writer.step(event));
        }
    };
    let mut actions = actions.into_iter();
    Box::new(move |_| actions.next().unwrap_or(Action::Done(value)))
}

/// A cache with `get`, `set` and `delete`.
fn without_leases() -> Store {
    let mut values: HashMap<Key, (u64, Instant)> = HashMap::new();
    Box::new(move |action, key, now| match action {
        Action::Get => Event::Found(match values.get(key) {
            Some((value, until)) if now < *until => Lookup::Hit(*value),
            _ => Lookup::Miss(NO_LEASE),
        }),
        Action::Fill(_, value) => {
            values.insert(key, (*value, now + CONFIG.ttl));
            Event::Filled(Ok(()))
        }
        _ => {
            values.remove(key);
            Event::Deleted
        }
    })
}
