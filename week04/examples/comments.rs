//! Starts the comment service: gRPC and HTTP on free ports, and SQLite in a file.
//!
//! ```console
//! $ cargo run -p week04 --example comments
//! $ cargo run -p week04 --example comments -- settings.json
//! ```
//!
//! Variables such as `COMMENTS_DATA_URL` and `COMMENTS_SERVER_HTTP_ADDRESS`
//! change single settings. Ctrl-C or SIGTERM ends the service.

use std::process::ExitCode;
use std::{env, fs};

use week03::signals;
use week04::composition::Application;
use week04::settings;
use week04::wire::BoxError;

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().compact().with_target(false).init();
    let start = async |stop| {
        let application = open().await?;
        let (http, grpc) = application.addresses()?;
        println!("HTTP  http://{http}");
        println!("gRPC  {grpc}");
        println!("\nTry it:");
        println!(
            "  curl --json '{{\"title\": \"Rust\"}}' \
             'http://{http}/v1/subjects?subjectId=rust'"
        );
        let part: signals::Part = Box::pin(application.run(stop));
        Ok(vec![part])
    };
    signals::run(start, || println!("there is nothing to reload")).await.into()
}

async fn open() -> Result<Application, BoxError> {
    let file = match env::args_os().nth(1) {
        Some(path) => fs::read_to_string(&path)
            .map_err(|error| format!("{}: {error}", path.display()))?,
        None => "{}".to_owned(),
    };
    // `env::vars` would panic if any variable is not UTF-8.
    let variables = env::vars_os().filter_map(|(name, value)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    });
    let settings = settings::load(&file, variables)?;
    println!("{settings}"); // ends with a line feed
    let application = Application::open(settings.options()?).await;
    application.map_err(|failed| {
        for failure in &failed.failures {
            eprintln!("{failure}");
        }
        failed.error
    })
}
