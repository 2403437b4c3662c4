//! Where a file goes that is fetched from an older system.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use ftx_proto::name::{NameError, RelativePath, printable};

use super::args::GetOptions;
use crate::error::{Code, Error};
use crate::store::Target;

/// Where the file goes; what is wrong with that should be said before anything else happens.
///
/// `last` is the last part of what it is called there; where the output names the file, it is not used.
pub(super) fn target(options: &GetOptions, last: &str) -> Result<Target, Error> {
    if options.to_stdout() {
        return match options.force {
            true => Err(Error::new(Code::Usage, "--force makes no sense with -o -")),
            false => Ok(Target::temporary()),
        };
    }
    let output = options.output.clone().unwrap_or_else(|| PathBuf::from("./"));
    let named = output.file_name().and_then(OsStr::to_str).filter(|_| !ends_as_folder(&output));
    let name: Result<RelativePath, NameError> = named.unwrap_or(last).parse();
    let name = name.map_err(|error| {
        Error::new(Code::Usage, format!("'{}': {error}; say with -o FILE where it goes", printable(last)))
    })?;
    let target = Target::new(&output, &name)?;
    if !options.force {
        target.expect_free()?;
    }
    Ok(target)
}

fn ends_as_folder(output: &Path) -> bool {
    output.as_os_str().as_encoded_bytes().ends_with(b"/") || output.is_dir()
}
