//! The commands: their tree for clap, and who does what.

mod attach;
mod build;
mod builder;
mod checkpoint;
mod commit;
mod containers;
mod context;
mod copy;
mod dial;
mod exec;
mod export;
mod image_archives;
mod image_tree;
mod images;
mod inspect;
mod login;
mod logs;
mod manifest;
mod networks;
mod objects;
pub(crate) mod ps;
pub(crate) mod pull;
mod push;
pub(crate) mod quick;
mod registry;
mod stats;
mod storage;
mod system;
mod update;
mod volumes;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::host::{self, Endpoint, Environment};
use crate::http::{self, Client};
use crate::run::options::Options;
use crate::run::{self, RunFlags};
use crate::terminal::DetachKeys;
use clap::{Args, CommandFactory, Parser, Subcommand};

/// What every command works with.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) config: Config,
    /// Name of the context in use.
    pub(crate) current: String,
    /// What the context `default` connects to.
    pub(crate) default_host: Endpoint,
    pub(crate) default_socket: std::path::PathBuf,
}

impl Context {
    /// The keys that detach: the flag's, else the configured ones, else Docker's.
    pub(crate) fn detach_keys(&self, flag: &str) -> Result<DetachKeys> {
        run::detach_keys(flag, self.config.text("detachKeys").as_deref())
    }
}

const LOG_LEVELS: [&str; 5] = ["debug", "info", "warn", "error", "fatal"];

/// A container engine that speaks Docker
#[derive(Debug, Parser)]
#[command(
    name = "brig",
    version,
    args_override_self = true,
    disable_help_subcommand = true,
    disable_version_flag = true,
    after_help = "Run 'brig COMMAND --help' for more information on a command."
)]
pub(crate) struct Line {
    #[command(flatten)]
    host: host::Flags,
    /// Location of client config files
    #[arg(long, value_name = "string")]
    config: Option<std::path::PathBuf>,
    /// Print version information and quit
    #[arg(short = 'v', short_alias = 'V', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    /// Tell every request to the daemon on stderr
    #[arg(short = 'D', long)]
    debug: bool,
    /// What to tell on stderr: with "debug" every request, with "info", "warn", "error" and "fatal" none
    #[arg(short, long, value_name = "string", default_value = "info", value_parser = LOG_LEVELS)]
    log_level: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
enum Command {
    #[command(flatten)]
    Container(ContainerCommand),
    #[command(flatten)]
    Image(ImageShort),
    #[command(flatten)]
    System(SystemShort),
    /// Manage builds
    #[command(subcommand)]
    Builder(builder::Builder),
    /// Manage checkpoints (experimental: the daemon wants --experimental, and criu)
    #[command(subcommand)]
    Checkpoint(checkpoint::Checkpoint),
    /// Manage containers
    #[command(name = "container", subcommand)]
    Containers(ContainerGroup),
    /// Manage images
    #[command(name = "image", subcommand)]
    Images(ImageGroup),
    /// Manage contexts: daemons by name
    #[command(subcommand)]
    Context(context::Contexts),
    /// Manage image manifests and manifest lists
    #[command(subcommand)]
    Manifest(manifest::Manifest),
    /// Manage networks
    #[command(subcommand)]
    Network(objects::Network),
    /// Manage volumes
    #[command(subcommand)]
    Volume(volumes::Volume),
    /// Manage the engine
    #[command(name = "system", subcommand)]
    SystemGroup(system::Group),
    /// Print a shell completion script
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
struct Run {
    #[command(flatten)]
    flags: RunFlags,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
enum ContainerCommand {
    /// Create and run a new container from an image
    #[command(
        disable_help_flag = true,
        args_override_self = true,
        override_usage = "brig run [OPTIONS] IMAGE [COMMAND] [ARG...]",
        after_help = "Examples:\n  brig run --rm busybox echo hello            run a command and clean up\n  brig run --rm -it busybox sh                a shell with a terminal; ctrl-p ctrl-q detaches\n  brig run -d --name web -p 8080:80 nginx     in the background, port published\n  brig run --rm -v \"$PWD\":/src -w /src golang go build\n  brig run --rm -m 256m --cpus 0.5 --network none busybox sh -c 'id'"
    )]
    Run(Run),
    /// Create a new container
    #[command(
        disable_help_flag = true,
        args_override_self = true,
        override_usage = "brig create [OPTIONS] IMAGE [COMMAND] [ARG...]"
    )]
    Create(Options),
    /// Execute a command in a running container
    #[command(
        override_usage = "brig exec [OPTIONS] CONTAINER COMMAND [ARG...]",
        after_help = "Examples:\n  brig exec web ls /                a command's output\n  brig exec -it web sh              a shell\n  brig exec -u 0 -e A=1 -w /tmp web env\n  brig exec -d web sh -c 'sleep 100'"
    )]
    Exec(exec::Exec),
    /// Attach local standard input, output, and error streams to a running container
    Attach(attach::Attach),
    /// Start one or more stopped containers
    Start(attach::Start),
    /// Fetch the logs of a container
    #[command(
        after_help = "Examples:\n  brig logs -f web                  follow\n  brig logs --tail 100 -t web       the last lines, with times\n  brig logs --since 10m web         the last ten minutes\n  brig logs --since 2024-05-06T07:08:09 --until 5m web"
    )]
    Logs(logs::Logs),
    /// Copy files/folders between a container and the local filesystem
    #[command(
        override_usage = "brig cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n       brig cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH"
    )]
    Cp(copy::Copy),
    /// Export a container's filesystem as a tar archive
    Export(export::Export),
    /// Create a new image from a container's changes
    Commit(commit::Commit),
    /// Display a live stream of container(s) resource usage statistics
    #[command(
        after_help = "Examples:\n  brig stats                        all that run, again every second\n  brig stats --no-stream web db     once\n  brig stats --no-stream --format '{{.Name}} {{.CPUPerc}} {{.MemUsage}}'"
    )]
    Stats(stats::Stats),
    /// Update configuration of one or more containers
    #[command(
        after_help = "Examples:\n  brig update -m 512m --memory-swap 1g web    limits of a container that runs\n  brig update --cpus 0.5 web db\n  brig update --restart unless-stopped web"
    )]
    Update(update::Update),
    #[command(flatten)]
    Simple(containers::Simple),
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
enum ImageShort {
    /// List images
    Images(images::Images),
    /// Remove one or more images
    Rmi(images::Remove),
    /// Download an image from a registry
    #[command(
        after_help = "Examples:\n  brig pull busybox                         Docker Hub, tag latest\n  brig pull debian:12\n  brig pull localhost:5000/app@sha256:...   a registry of your own, by digest\n  brig pull --platform linux/arm64 busybox"
    )]
    Pull(pull::Pull),
    /// Upload an image to a registry
    #[command(
        after_help = "Examples:\n  brig push localhost:5000/app              tag latest\n  brig push registry.example.com/team/app:1.2\n  brig push -a registry.example.com/team/app  all tags"
    )]
    Push(push::Push),
    /// Build an image from a Dockerfile
    #[command(
        after_help = "Examples:\n  brig build -t app .                       the Dockerfile of this directory\n  brig build -t app --target test --build-arg V=2 .\n  brig build --secret id=token,src=token.txt -t app .\n  brig build -o out .                       the files of the result, into a directory\n  brig build --check .                      what could be written better"
    )]
    Build(Box<build::Build>),
    /// Load an image from a tar archive or STDIN
    Load(images::Load),
    /// Save one or more images to a tar archive (streamed to STDOUT by default)
    Save(image_archives::Save),
    /// Import the contents from a tarball to create a filesystem image
    Import(image_archives::Import),
    /// Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE
    Tag(images::Tag),
    /// Show the history of an image
    History(images::History),
    /// Search a registry for images
    Search(registry::Search),
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
enum SystemShort {
    /// List containers
    Ps(ps::Ps),
    /// Return low-level information on containers and images
    Inspect(inspect::Inspect),
    #[command(flatten)]
    System(system::Short),
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
#[expect(clippy::large_enum_variant, reason = "one value in the program's life")]
enum ContainerGroup {
    #[command(flatten)]
    Command(ContainerCommand),
    /// List containers
    #[command(name = "ls", aliases = ["ps", "list"])]
    List(ps::Ps),
    /// Display detailed information on one or more containers
    Inspect(inspect::Inspect),
    /// Remove all stopped containers
    Prune(objects::Prune),
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
enum ImageGroup {
    /// List images
    #[command(name = "ls", alias = "list")]
    List(images::Images),
    /// Remove one or more images
    #[command(name = "rm", alias = "remove")]
    Remove(images::Remove),
    /// Download an image from a registry
    Pull(pull::Pull),
    /// Upload an image to a registry
    Push(push::Push),
    /// Build an image from a Dockerfile
    Build(Box<build::Build>),
    /// Load an image from a tar archive or STDIN
    Load(images::Load),
    /// Save one or more images to a tar archive (streamed to STDOUT by default)
    Save(image_archives::Save),
    /// Import the contents from a tarball to create a filesystem image
    Import(image_archives::Import),
    /// Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE
    Tag(images::Tag),
    /// Show the history of an image
    History(images::History),
    /// Display detailed information on one or more images
    Inspect(inspect::Inspect),
    /// Remove unused images
    Prune(objects::Prune),
}

/// The tree of commands, for completions and man pages.
pub(crate) fn command() -> clap::Command {
    Line::command()
}

/// Does what the command line says; gives back the exit code.
pub(crate) async fn dispatch(line: Line) -> Result<u8> {
    if let Command::Completion { shell } = line.command {
        let mut out = Vec::new();
        clap_complete::generate(shell, &mut command(), "brig", &mut out);
        crate::terminal::print(&String::from_utf8_lossy(&out))?;
        return Ok(0);
    }
    let (config, environment) = (Config::read(line.config)?, Environment::read());
    let chosen = host::choose(&line.host, &environment, &config);
    let chosen = match (chosen, &line.command) {
        // What is wrong with the context in use is put right by these commands.
        (Err(Error::Usage(_)), Command::Context(_)) => host::Choice {
            host: host::choose(&host::Flags::default(), &environment, &Config::default())?.host,
            context: config.text("currentContext").unwrap_or_else(|| crate::contexts::DEFAULT.into()),
            default: Endpoint::Unix(environment.default_socket.clone()),
        },
        (chosen, _) => chosen?,
    };
    let pinned = http::pinned_version(std::env::var("DOCKER_API_VERSION").ok().as_deref())?;
    let mut context = Context {
        client: Client::new(chosen.host, pinned, line.debug || line.log_level == "debug"),
        config,
        current: chosen.context,
        default_host: chosen.default,
        default_socket: environment.default_socket,
    };
    match line.command {
        Command::Container(command) | Command::Containers(ContainerGroup::Command(command)) => {
            container(&context, &command).await
        }
        Command::Containers(ContainerGroup::List(flags)) | Command::System(SystemShort::Ps(flags)) => {
            ps::ps(&context, &flags).await
        }
        Command::Containers(ContainerGroup::Inspect(flags)) => {
            inspect::inspect(&context, &flags, Some(inspect::Kind::Container)).await
        }
        Command::Containers(ContainerGroup::Prune(flags)) => {
            objects::prune(&context, "containers", &flags).await
        }
        Command::Image(command) => image(&context, command).await,
        Command::Images(group) => image_group(&context, group).await,
        Command::System(SystemShort::Inspect(flags)) => inspect::inspect(&context, &flags, None).await,
        Command::System(SystemShort::System(command)) => system::short(&mut context, command).await,
        Command::SystemGroup(group) => system::group(&context, group).await,
        Command::Builder(command) => builder::builder(&context, &command).await,
        Command::Checkpoint(command) => checkpoint::checkpoint(&context, &command).await,
        Command::Context(command) => context::context(&mut context, command),
        Command::Manifest(command) => manifest::manifest(&context, &command).await,
        Command::Network(command) => objects::network(&context, command).await,
        Command::Volume(command) => volumes::volume(&context, command).await,
        Command::Completion { .. } => Ok(0),
    }
}

async fn container(context: &Context, command: &ContainerCommand) -> Result<u8> {
    match command {
        ContainerCommand::Run(line) => run::run_command(context, &line.options, &line.flags).await,
        ContainerCommand::Create(options) => run::create_command(context, options).await,
        ContainerCommand::Exec(flags) => exec::exec(context, flags).await,
        ContainerCommand::Attach(flags) => attach::attach(context, flags).await,
        ContainerCommand::Start(flags) => attach::start(context, flags).await,
        ContainerCommand::Logs(flags) => logs::logs(context, flags).await,
        ContainerCommand::Cp(flags) => copy::copy(context, flags).await,
        ContainerCommand::Export(flags) => export::export(context, flags).await,
        ContainerCommand::Commit(flags) => commit::commit(context, flags).await,
        ContainerCommand::Stats(flags) => stats::stats(context, flags).await,
        ContainerCommand::Update(flags) => update::update(context, flags).await,
        ContainerCommand::Simple(command) => containers::simple(context, command).await,
    }
}

async fn image(context: &Context, command: ImageShort) -> Result<u8> {
    match command {
        ImageShort::Images(flags) => images::images(context, &flags).await,
        ImageShort::Rmi(flags) => images::remove(context, &flags).await,
        ImageShort::Pull(flags) => pull::pull_command(context, &flags).await,
        ImageShort::Push(flags) => push::push_command(context, &flags).await,
        ImageShort::Build(flags) => build::build(context, &flags).await,
        ImageShort::Load(flags) => images::load(context, &flags).await,
        ImageShort::Save(flags) => image_archives::save(context, &flags).await,
        ImageShort::Import(flags) => image_archives::import(context, &flags).await,
        ImageShort::Tag(flags) => images::tag(context, &flags).await,
        ImageShort::History(flags) => images::history(context, &flags).await,
        ImageShort::Search(flags) => registry::search(context, &flags).await,
    }
}

async fn image_group(context: &Context, group: ImageGroup) -> Result<u8> {
    let short = match group {
        ImageGroup::List(flags) => ImageShort::Images(flags),
        ImageGroup::Remove(flags) => ImageShort::Rmi(flags),
        ImageGroup::Pull(flags) => ImageShort::Pull(flags),
        ImageGroup::Push(flags) => ImageShort::Push(flags),
        ImageGroup::Build(flags) => ImageShort::Build(flags),
        ImageGroup::Load(flags) => ImageShort::Load(flags),
        ImageGroup::Save(flags) => ImageShort::Save(flags),
        ImageGroup::Import(flags) => ImageShort::Import(flags),
        ImageGroup::Tag(flags) => ImageShort::Tag(flags),
        ImageGroup::History(flags) => ImageShort::History(flags),
        ImageGroup::Inspect(flags) => {
            return inspect::inspect(context, &flags, Some(inspect::Kind::Image)).await;
        }
        ImageGroup::Prune(flags) => return objects::prune(context, "images", &flags).await,
    };
    image(context, short).await
}

/// Does `action` for each of `names`, printing errors as they come; the exit code is 1 where one failed.
pub(crate) async fn each<F>(names: &[String], mut action: impl FnMut(String) -> F) -> Result<u8>
where
    F: Future<Output = Result<Option<String>>>,
{
    let mut code = 0;
    for name in names {
        match action(name.clone()).await {
            Ok(Some(text)) => crate::terminal::print_line(&text)?,
            Ok(None) => {}
            Err(error @ (Error::Connect { .. } | Error::StartDaemon { .. } | Error::Exit { .. })) => {
                return Err(error);
            }
            Err(error) => {
                crate::terminal::warn(&errors::chain(&error));
                code = 1;
            }
        }
    }
    Ok(code)
}
