//! File locks between commands. The operating system releases a lock when its
//! process ends.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};

use rustix::process::{Pid, test_kill_process};
use workbook::Workbook;

use crate::error::Error;

/// Holds a lock until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Acquires the lock `name`. If another command holds it, prints which process it
/// is, and waits.
pub(crate) fn acquire(book: &Workbook, name: &str) -> Result<Lock, Error> {
    let path = book.scratch().join(name).with_extension("lock");
    let acquire = || -> io::Result<File> {
        fs::create_dir_all(book.scratch())?;
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder)?;
                eprintln!("{}", waiting_message(&holder));
                file.lock()?;
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        file.set_len(0)?;
        file.rewind()?;
        write!(file, "{}", std::process::id())?;
        Ok(file)
    };
    match acquire() {
        Ok(file) => Ok(Lock { _file: file }),
        Err(error) => Err(Error::file("lock", &path, &error)),
    }
}

/// Names the process that holds the lock, if it runs: the file may still have the
/// id of the process before.
fn waiting_message(holder: &str) -> String {
    let id = holder.parse().ok().and_then(Pid::from_raw);
    if id.is_some_and(|id| test_kill_process(id).is_ok()) {
        format!(
            "waiting for another `cargo wb` (process {holder}); to end it: \
             `kill {holder}`"
        )
    } else {
        "waiting for another `cargo wb`".to_owned()
    }
}
