//! The commands as a whole: their definition, and a controller that is played by a few routes.

use clap::{CommandFactory, Parser};

use super::ClientCommand;

#[derive(Debug, Parser)]
struct Flotilla {
    #[command(subcommand)]
    command: ClientCommand,
}

fn leaves(command: &clap::Command, path: &str, visit: &mut impl FnMut(&str, &clap::Command)) {
    let path = format!("{path} {}", command.get_name());
    match command.has_subcommands() {
        true => command.get_subcommands().for_each(|below| leaves(below, &path, visit)),
        false => visit(path.trim(), command),
    }
}

#[test]
fn the_definition_holds_together() {
    Flotilla::command().debug_assert();
}

#[test]
fn every_command_explains_itself_by_an_example() {
    let mut command = Flotilla::command();
    command.build();
    leaves(&command, "", &mut |path, command| {
        if path.contains(" help") {
            return;
        }
        assert!(command.get_about().is_some(), "{path} has no description");
        let example = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(example.starts_with("Example:\n  flotilla"), "{path} has no example");
        let words = example.lines().nth(1).unwrap();
        let asked: Vec<_> = path.split(' ').skip(1).collect();
        assert!(words.contains(&format!("flotilla {}", asked.join(" "))), "the example of {path} shows something else");
    });
}
