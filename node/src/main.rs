//! The `starling` program; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    starling::cli::main()
}
