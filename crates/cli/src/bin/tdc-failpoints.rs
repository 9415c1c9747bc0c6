//! `tdc` with fail points, for the crash tests: `TDC_FAILPOINT=name@N` lets the process die at that place.

use std::process::ExitCode;

fn main() -> ExitCode {
    tdc::main()
}
