//! `tdc`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    tdc::main()
}
