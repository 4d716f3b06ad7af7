//! `holdfast`: arguments in, exit code out.

use clap::Parser;
use holdfast::app::{self, Exit, ServeOptions};
use holdfast::cli::{self, Arguments, Command, ConfigCommand};
use std::io::Write as _;
use std::process::ExitCode;

/// A fifth off the cost of a SIP message.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Success };
            let _ = error.print();
            return exit.into();
        }
    };
    let config = arguments.config.clone();
    match arguments.command {
        Command::Serve(serve) => {
            let (mode, replace) = (serve.mode, serve.replace);
            app::serve(&ServeOptions { config, mode, replace }).into()
        }
        Command::Config(ConfigCommand::Show { mode, json }) => {
            let options = ServeOptions { config, mode, ..ServeOptions::default() };
            let shown = app::config_show(&options, json.json);
            print(shown.map(|text| (text, Exit::Success)))
        }
        Command::Doctor { mode, echo, json } => {
            let options = ServeOptions { config, mode, ..ServeOptions::default() };
            print(app::doctor(&options, &echo, json.json))
        }
        Command::Backup { file, cdrs, json } => {
            let done =
                app::backup(&ServeOptions { config, ..ServeOptions::default() }, &file, cdrs);
            told("kept", done, json)
        }
        Command::Completions { shell } => {
            // Nobody reads any more: `holdfast completions bash | head`.
            let _ = std::io::stdout().write_all(&cli::completions(shell));
            ExitCode::SUCCESS
        }
        Command::Restore { file, json } => told(
            "restored",
            app::restore(&ServeOptions { config, ..ServeOptions::default() }, &file),
            json,
        ),
        command => client(&arguments.connection, config.as_deref(), command),
    }
}

fn client(
    connection: &cli::Connection,
    config: Option<&std::path::Path>,
    command: Command,
) -> ExitCode {
    let context = match app::client_context(config) {
        Ok(context) => context,
        Err(error) => {
            eprintln!("{error:#}");
            return Exit::Usage.into();
        }
    };
    let credentials = context.credentials;
    let known = cli::Known {
        url: context.settings.admin_url,
        token: context.settings.admin_token,
        credentials: credentials.as_ref().and_then(|all| serde_json::to_value(all).ok()),
        health: context.health,
        sockets: context.sockets,
    };
    ExitCode::from(cli::run(connection, &known, command))
}

/// What a backup or a restoration did.
#[allow(clippy::print_stdout, reason = "the answer to who typed the command")]
fn told(what: &str, done: anyhow::Result<app::Counts>, json: cli::Json) -> ExitCode {
    match done {
        Ok(counts) if json.json => println!("{}", serde_json::json!(counts)),
        Ok(app::Counts { users, cdrs, secrets }) => {
            println!("{what}: {users} users, {cdrs} CDRs, {secrets} secrets");
        }
        Err(error) => {
            eprintln!("{error:#}");
            return Exit::of(&error).into();
        }
    }
    ExitCode::SUCCESS
}

#[allow(clippy::print_stdout, reason = "the answer to who typed the command")]
fn print<E: core::fmt::Display>(answer: Result<(String, Exit), E>) -> ExitCode {
    match answer {
        Ok((text, exit)) => {
            println!("{text}");
            exit.into()
        }
        Err(error) => {
            eprintln!("{error}");
            Exit::Usage.into()
        }
    }
}
