//! One command at a time. The system ends a lock with its process.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};

use rustix::process::{Pid, test_kill_process};
use workbook::Workbook;

use crate::error::Error;

/// Held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Waits for another command that holds `name`, and says for whom it waits.
pub(crate) fn wait_for(book: &Workbook, name: &str) -> Result<Lock, Error> {
    let path = book.scratch().join(name).with_extension("lock");
    let taken = || -> io::Result<File> {
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
                eprintln!("{}", waiting(&holder));
                file.lock()?;
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        file.set_len(0)?;
        file.rewind()?;
        write!(file, "{}", std::process::id())?;
        Ok(file)
    };
    match taken() {
        Ok(file) => Ok(Lock { _file: file }),
        Err(error) => Err(Error::file("lock", &path, &error)),
    }
}

/// The last holder's id may still stand there for a moment.
fn waiting(holder: &str) -> String {
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
