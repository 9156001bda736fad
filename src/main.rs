fn main() -> std::process::ExitCode {
    if tortie::cni::is_called() { tortie::cni::main() } else { tortie::cli::main() }
}
