//! Serves nothing, for ever.

fn main() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let id = std::process::id().to_string();
    std::fs::write(here.join("pid"), id).unwrap();
    let words: Vec<String> = std::env::args().skip(1).collect();
    assert_eq!(words[0], "serve");
    let port = words.get(2).map_or("3000", String::as_str);
    println!("http://127.0.0.1:{port}/");
    loop {
        std::thread::park();
    }
}
