//! Tests of writing: what is there stays what it is, what fails leaves nothing, and a folder has one writer.

use std::path::PathBuf;

use super::*;

/// A folder of this test, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("cotangent-files-{}-{name}", process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        Scratch(folder)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn put(path: &Path, text: &str) -> Result<(), DataError> {
    write_durably(path, |out| out.write_all(text.as_bytes()))
}

#[test]
fn a_file_is_replaced_whole_and_a_failure_leaves_what_was_there() {
    let scratch = Scratch::new("whole");
    let file = scratch.join("a");
    put(&file, "first").unwrap();
    put(&file, "second").unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "second");
    let error = write_durably(&file, |out| {
        out.write_all(b"half")?;
        Err(io::Error::from(io::ErrorKind::StorageFull))
    });
    assert!(matches!(error, Err(DataError::Io { action: "write", .. })));
    let panicked = std::panic::catch_unwind(|| write_durably(&file, |_| panic!("on purpose")));
    assert!(panicked.is_err());
    assert_eq!((fs::read_to_string(&file).unwrap().as_str(), scratch.names()), ("second", vec!["a".to_owned()]));
    assert!(matches!(put(&scratch.0, "x"), Err(DataError::NotAFile { got: Kind::Folder, .. })));
    assert!(matches!(put(&scratch.join("no/such/folder"), "x"), Err(DataError::Io { .. })));
    assert!(put(&scratch.join("new/"), "x").is_err());
    assert!(put(Path::new(""), "x").unwrap_err().to_string().contains("the path is empty"));
    assert_eq!(scratch.names(), ["a"]);
    write_text(scratch.join("made/for/it"), "text").unwrap();
    assert_eq!(fs::read_to_string(scratch.join("made/for/it")).unwrap(), "text");
    // The longest name that a file can have.
    let long = scratch.join(&"n".repeat(255));
    put(&long, "long").unwrap();
    assert_eq!(fs::read_to_string(long).unwrap(), "long");
}

/// Files that only look like partial ones are somebody's.
#[test]
fn what_others_are_writing_is_left_alone() {
    let scratch = Scratch::new("others");
    let mine = format!("a.{}-{}.partial", process::id(), 1_000_000);
    for name in ["a.partial", "a.1-2.partial", "mine.partial", &mine] {
        fs::write(scratch.join(name), "theirs").unwrap();
    }
    put(&scratch.join("a"), "text").unwrap();
    assert_eq!(scratch.names().len(), 5, "{:?}", scratch.names());
    assert_eq!(whole_of("a.b.17-3.partial"), Some("a.b"));
    for other in ["a.partial", "a.17.partial", "a.x-3.partial", "a.17-.partial", "17-3.partial", "a.17-3"] {
        assert_eq!(whole_of(other), None, "{other}");
    }
}

#[test]
fn threads_may_write_one_file_at_a_time_and_one_of_them_wins() {
    let scratch = Scratch::new("threads");
    let file = scratch.join("a");
    std::thread::scope(|scope| {
        for k in 0..4 {
            let file = &file;
            scope.spawn(move || (0..20).for_each(|_| put(file, &k.to_string().repeat(10_000)).unwrap()));
        }
    });
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.len() == 10_000 && text.bytes().all(|b| b == text.as_bytes()[0]));
    assert_eq!(scratch.names(), ["a"]);
}

#[test]
fn a_folder_has_one_writer_at_a_time() {
    let scratch = Scratch::new("lock");
    let lock = FolderLock::new(&scratch.0).unwrap();
    assert!(lock.is_exclusive());
    let text = FolderLock::new(&scratch.0).unwrap_err().to_string();
    assert!(text.contains("in use by this process already"), "{text}");
    drop(lock);
    // Also while other threads start processes, which have the lock's file open for a moment.
    std::thread::scope(|scope| {
        let starting = scope.spawn(|| (0..40).for_each(|_| drop(process::Command::new("true").status())));
        while !starting.is_finished() {
            drop(FolderLock::new(&scratch.0).unwrap());
        }
    });
    assert!(matches!(FolderLock::new(&scratch.join("nothing")), Err(DataError::Io { .. })));
    fs::remove_file(scratch.join(LOCK)).unwrap();
    fs::create_dir(scratch.join(LOCK)).unwrap();
    assert!(matches!(FolderLock::new(&scratch.0), Err(DataError::NotAFile { .. })));
}

#[cfg(unix)]
mod on_unix {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::process::Command;

    use super::*;

    #[test]
    fn links_stay_links_and_what_they_lead_to_is_written() {
        let scratch = Scratch::new("links");
        let (file, link, chain, to_nothing) =
            (scratch.join("file"), scratch.join("link"), scratch.join("chain"), scratch.join("to-nothing"));
        fs::write(&file, "old").unwrap();
        symlink("file", &link).unwrap();
        symlink(&link, &chain).unwrap();
        symlink("made", &to_nothing).unwrap();
        put(&link, "one").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "one");
        put(&chain, "two").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "two");
        put(&to_nothing, "three").unwrap();
        assert_eq!(fs::read_to_string(scratch.join("made")).unwrap(), "three");
        assert!([&link, &chain, &to_nothing].iter().all(|path| path.is_symlink()));
        let circle = scratch.join("circle");
        symlink("circle", &circle).unwrap();
        assert!(put(&circle, "x").is_err() && circle.is_symlink());
        // A folder may be a link, too.
        fs::create_dir(scratch.join("folder")).unwrap();
        symlink("folder", scratch.join("door")).unwrap();
        put(&scratch.join("door/a"), "in").unwrap();
        assert_eq!(fs::read_to_string(scratch.join("folder/a")).unwrap(), "in");
        assert!(scratch.names().iter().all(|name| !name.ends_with(PARTIAL)), "{:?}", scratch.names());
    }

    #[test]
    fn mode_owner_and_further_names_of_a_file_stay() {
        let scratch = Scratch::new("mode");
        let file = scratch.join("a");
        fs::write(&file, "old").unwrap();
        for mode in [0o600, 0o640, 0o755] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            put(&file, "new").unwrap();
            assert_eq!(file.metadata().unwrap().mode() & 0o7777, mode);
        }
        let owner = file.metadata().unwrap();
        // Only the superuser can give files away.
        if std::os::unix::fs::chown(&file, Some(12345), Some(54321)).is_ok() {
            put(&file, "given").unwrap();
            let now = file.metadata().unwrap();
            assert_eq!((now.uid(), now.gid(), now.mode() & 0o7777), (12345, 54321, 0o755));
        } else {
            assert_eq!(file.metadata().unwrap().uid(), owner.uid());
        }
        let other = scratch.join("b");
        fs::hard_link(&file, &other).unwrap();
        put(&file, "both").unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "both");
        assert_eq!(file.metadata().unwrap().ino(), other.metadata().unwrap().ino());
    }

    #[test]
    fn devices_and_pipes_are_written_to_and_stay() {
        let scratch = Scratch::new("special");
        put(Path::new("/dev/null"), "x").unwrap();
        assert_eq!(Kind::of(&fs::metadata("/dev/null").unwrap()), Kind::Device);
        #[cfg(target_os = "linux")]
        {
            let error = put(Path::new("/dev/full"), "x").unwrap_err().to_string();
            assert!(error.contains("/dev/full: could not write: No space left on device"), "{error}");
        }
        let (pipe, link) = (scratch.join("pipe"), scratch.join("link"));
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        symlink("pipe", &link).unwrap();
        for path in [&pipe, &link] {
            let reader = std::thread::spawn({
                let pipe = pipe.clone();
                move || fs::read_to_string(pipe).unwrap()
            });
            put(path, "through").unwrap();
            assert_eq!(reader.join().unwrap(), "through");
        }
        assert_eq!(scratch.names(), ["link", "pipe"]);
    }

    /// What a shell redirects stays the file that the shell has open.
    #[cfg(target_os = "linux")]
    #[test]
    fn open_files_of_the_kernel_are_written_in_place() {
        use std::os::fd::AsRawFd;
        let scratch = Scratch::new("kernel");
        let file = File::create(scratch.join("a")).unwrap();
        for folder in ["/dev/fd", "/proc/self/fd"] {
            put(&Path::new(folder).join(file.as_raw_fd().to_string()), "in place").unwrap();
            assert_eq!(fs::read_to_string(scratch.join("a")).unwrap(), "in place");
            assert_eq!(file.metadata().unwrap().ino(), scratch.join("a").metadata().unwrap().ino());
        }
        assert_eq!(scratch.names(), ["a"]);
    }

    /// The superuser may write everywhere, so there is nothing to see then.
    #[test]
    fn who_may_not_write_to_a_file_does_not_replace_it() {
        let scratch = Scratch::new("refused");
        let file = scratch.join("a");
        fs::write(&file, "kept").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).unwrap();
        if OpenOptions::new().write(true).open(&file).is_ok() {
            return;
        }
        assert!(matches!(put(&file, "x"), Err(DataError::Io { .. })));
        assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
        // A file may be writable in a folder that is not.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o555)).unwrap();
        put(&file, "written").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "written");
        assert!(put(&scratch.join("new"), "x").is_err());
        fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o755)).unwrap();
    }
}
