//! argv in, exit code out; nothing else.

fn main() -> std::process::ExitCode {
    // A sandbox stage must change namespaces before any thread exists.
    if let Some(code) = assemble::sandbox::run_stage(std::env::args_os()) {
        return code;
    }
    assemble::cli::main(std::env::args_os())
}
