//! Prints what happens in a run, and the sums after it.

use std::collections::HashSet;
use std::sync::atomic::Ordering::Relaxed;

use anyhow::{Result, bail};

use crate::audit::Books;
use crate::clients::Requests;
use crate::fleet::Note;
use crate::pattern::Role;
use crate::print;
use crate::world::{BALANCE, FROM};

/// Counts what happens, and prints it.
#[derive(Default)]
pub(crate) struct Ledger {
    kills: u32,
    /// The reports of calls that had taken effect already.
    repeated: u32,
    reported: HashSet<(Role, String)>,
    /// The transfers that were seen debited.
    debited: HashSet<u64>,
}

/// The width of a line's text. With the sums, a line has up to 80 columns.
const WIDTH: usize = 42;

impl Ledger {
    pub(crate) fn print_header() -> Result<()> {
        print::line(format_args!(
            "{:WIDTH$} {:>8} {:>9} {:>8} {:>9}",
            "What happens", "debited", "in flight", "credited", "total"
        ))
    }

    /// Prints what was reported, and the sums after it.
    pub(crate) fn print(
        &mut self,
        notes: Vec<Note>,
        books: Option<&Books>,
    ) -> Result<()> {
        let last = notes.len().saturating_sub(1);
        for (i, note) in notes.into_iter().enumerate() {
            let text = match note {
                Note::Report(role, text) => {
                    self.count(role, &text);
                    format!("{role:12}{text}")
                }
                Note::Killed(role, text) => {
                    self.count(role, &text);
                    self.kills += 1;
                    format!("{role:12}{text}: KILL")
                }
                Note::Client(text) => format!("{:12}{text}", "client"),
                Note::Ended(role, text) => {
                    bail!("{role} has ended by itself: {text}")
                }
            };
            if let Some(books) = books.filter(|_| i == last) {
                let credited = books.savings;
                print::line(format_args!(
                    "{text:WIDTH$} {:>8} {:>9} {credited:>8} {:>9}",
                    books.in_flight() + credited,
                    books.in_flight(),
                    books.total(),
                ))?;
            } else {
                print::line(text)?;
            }
        }
        self.debited.extend(books.iter().flat_map(|b| b.debited.keys()));
        Ok(())
    }

    fn count(&mut self, role: Role, text: &str) {
        // An inbox says so, and a participant of TCC repeats its answer.
        let is_new = self.reported.insert((role, text.to_owned()));
        let is_call = text.contains(" debit ") || text.contains(" credit ");
        let is_repeated = text.starts_with("drops") || (is_call && !is_new);
        self.repeated += u32::from(is_repeated);
    }

    pub(crate) fn print_sums(
        &self,
        requests: &Requests,
        books: &Books,
    ) -> Result<()> {
        let all = requests.transfers();
        // A short debit may be between two audits.
        let was_debited = |id: &u64| {
            let text = format!("try debit {id}: Done");
            self.debited.contains(id)
                || self.reported.contains(&(Role::Payment, text))
        };
        let refunded: Vec<_> = all
            .iter()
            .filter(|(id, _)| was_debited(id))
            .filter(|(id, _)| !books.debited.contains_key(id))
            .map(|(_, transfer)| i64::from(transfer.cents.get()))
            .collect();
        let credited = books.credited.len();
        let lost = BALANCE * FROM.count() as i64 - books.total();
        print::line(format_args!(
            "\n{} transfers: {credited} credited, {} refunded, {} refused.\n{} \
             kills, {} requests sent again without an answer, {} twice on \
             purpose,\n{} duplicates without an effect. {} cents are debited and \
             credited, {}\nin flight, and {} were refunded: {lost} cents lost.",
            all.len(),
            refunded.len(),
            all.len() - credited - refunded.len(),
            self.kills,
            requests.retried.load(Relaxed),
            requests.repeated.load(Relaxed),
            self.repeated,
            books.savings,
            books.in_flight(),
            refunded.iter().sum::<i64>(),
        ))
    }
}
