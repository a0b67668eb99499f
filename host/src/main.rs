//! The binary: everything is in the library, so that tests can start a host in their own process.

fn main() -> std::process::ExitCode {
    posthaste::cli::run()
}
