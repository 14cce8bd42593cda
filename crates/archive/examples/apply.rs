//! Applies an archive to a new directory and says how long it took: `apply ARCHIVE DIRECTORY`.

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(archive), Some(directory)) = (arguments.next(), arguments.next()) else {
        return Err("usage: apply ARCHIVE DIRECTORY".into());
    };
    std::fs::create_dir(&directory)?;
    let root = rootdir::RootDir::open(Path::new(&directory))?;
    let started = Instant::now();
    let input = archive::decompress(std::fs::File::open(archive)?)?;
    let applied = archive::apply(input, &root, &archive::Options::default())?;
    writeln!(std::io::stdout(), "{applied:?} in {:?}", started.elapsed())?;
    Ok(())
}
