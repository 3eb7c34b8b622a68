//! The pod's monitor: see the library.

fn main() -> std::process::ExitCode {
    crioxide_monitor::main()
}
