fn main() -> std::process::ExitCode {
    tortie::cli::main()
}
