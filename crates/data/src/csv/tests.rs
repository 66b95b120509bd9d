//! Tests of tables of text: what is read is what stands there, and what does not fit is named with its line.

use std::path::PathBuf;

use cotangent_graph::TensorData;

use super::*;
use crate::{Examples, Order};

const PEOPLE: &str = "name,age,city,score\n\
                      Ann,20,Rome,1\n\
                      \"Bob, Jr.\",,Oslo,10\n\
                      \"Cid \"\"C\"\"\",40,Rome,2\n\
                      Dan,NA,,1\n";

fn people() -> Csv {
    Csv::new()
        .field("x", [Column::number("age").missing(Missing::Mean), Column::one_hot("city").missing(Missing::Category)])
        .column("y", Column::category("score"))
        .labels("y")
}

fn fitted() -> CsvReader {
    people().fit_bytes(PEOPLE.as_bytes(), "people.csv").unwrap()
}

fn read(csv: Csv, text: &str) -> Result<Table, DataError> {
    csv.fit_bytes(text.as_bytes(), "t.csv")?.read_bytes(text.as_bytes(), "t.csv")
}

fn message(csv: Csv, text: &str) -> String {
    read(csv, text).unwrap_err().to_string()
}

fn column(table: &Table, name: &str) -> Vec<f64> {
    table.get(name).unwrap().to_f64()
}

#[test]
fn cells_become_numbers_ids_and_columns_of_ones() {
    let reader = fitted();
    let table = reader.read_bytes(PEOPLE.as_bytes(), "people.csv").unwrap();
    // The mean of 20 and 40 where there is none; the missing city is the first of the three names.
    let x = [20.0, 0.0, 0.0, 1.0, 30.0, 0.0, 1.0, 0.0, 40.0, 0.0, 0.0, 1.0, 30.0, 1.0, 0.0, 0.0];
    assert_eq!(column(&table, "x"), x);
    // Numbers as names are sorted by size: 1, 2, 10.
    assert_eq!(column(&table, "y"), [0.0, 2.0, 1.0, 0.0]);
    assert_eq!(reader.columns("y")[0].entries().unwrap().entries(), ["1", "2", "10"]);
    assert_eq!(reader.names("x"), ["age", "city=", "city=Oslo", "city=Rome"]);
    assert_eq!(reader.fields(), table.fields());
    assert!(table.places(Order::Stratified, 0, 0).is_ok());
}

#[test]
fn names_of_the_training_file_stay_and_others_are_refused_or_unknown() {
    let reader = fitted();
    let table = reader.read_bytes(&b"score,city,more,age\n10,Rome,?,7\n"[..], "new.csv").unwrap();
    assert_eq!((column(&table, "x"), column(&table, "y")), (vec![7.0, 0.0, 0.0, 1.0], vec![2.0]));
    let error = reader.read_bytes(&b"age,city,score\n1,Rome,1\n2,Bonn,1\n"[..], "new.csv").unwrap_err().to_string();
    for part in ["new.csv: cell", "3 names", "\"Rome\"", "got \"Bonn\" in line 3, column `city`"] {
        assert!(error.contains(part), "{error}");
    }
    let open = Csv::new().column("c", Column::category("city").unknown());
    let open = open.fit_bytes(&b"city\nb\na\n"[..], "t.csv").unwrap();
    assert_eq!(column(&open.read_bytes(&b"city\nz\na\n"[..], "u.csv").unwrap(), "c"), [2.0, 0.0]);
    let most = Csv::new().field("c", [Column::one_hot("city").most(1)]);
    assert_eq!(column(&read(most, "city\na\nb\nb\n").unwrap(), "c"), [0.0, 1.0, 1.0, 0.0, 1.0, 0.0]);
    // Files without labels.
    let unlabelled = reader.clone().without(&["y"]).unwrap().read_bytes(&b"age,city\n1,Rome\n"[..], "u.csv").unwrap();
    assert_eq!(unlabelled.fields().len(), 1);
    assert!(reader.without(&["x", "y"]).is_err());
}

#[test]
fn other_files_are_read_as_told() {
    let csv = || Csv::new().delimiter(b';').without_names().missing_as(["-"]);
    let csv = csv().field("x", [Column::number("2").missing(Missing::Value(-1.0))]).column("n", Column::integer("1"));
    let table = read(csv, "9007199254740993; 1.5\n-4;-\n 0 ; 2e3 ").unwrap();
    assert_eq!(column(&table, "x"), [1.5, -1.0, 2000.0]);
    let TensorData::I64(n) = table.get("n").unwrap() else { panic!("i64") };
    assert_eq!(n.as_slice().unwrap(), [9007199254740993, -4, 0]);
    // A mark of the byte order, and lines that end as on Windows.
    let table = read(Csv::new().field("x", [Column::number("a")]), "\u{feff}a,b\r\n1,2\r\n3,4\r\n").unwrap();
    assert_eq!(column(&table, "x"), [1.0, 3.0]);
    let row =
        Csv::new().field("x", [Column::number("a").missing(Missing::Row), Column::number("b").missing(Missing::Mean)]);
    assert_eq!(column(&read(row, "a,b\n1,\n,100\n2,6\n").unwrap(), "x"), [1.0, 6.0, 2.0, 6.0]);
    let words = Csv::new().field("w", [Column::text("t", Unit::Word, 3).unknown()]);
    let words = words.fit_bytes(&b"t\nto be\nor not to be\n"[..], "t.csv").unwrap();
    let ids = words.read_bytes(&b"t\nbe so to be\n\"\"\nor\n"[..], "u.csv");
    assert!(ids.unwrap_err().to_string().contains("required a value"), "an empty text is a missing value");
    let ids = words.read_bytes(&b"t\nbe so to be\nor\n"[..], "u.csv").unwrap();
    assert_eq!(column(&ids, "w"), [0.0, 4.0, 3.0, 2.0, 5.0, 5.0]);
}

#[test]
fn what_does_not_fit_is_named_with_line_and_column() {
    let number = || Csv::new().field("x", [Column::number("a")]);
    for (text, parts) in [
        ("a\n1\nx\n", &["t.csv: cell: required a finite number, got \"x\" in line 3, column `a`"][..]),
        ("a\n1\n1e99\n", &["\"1e99\" in line 3"]),
        ("a\ninf\n", &["finite number"]),
        ("b,a\n\"two\nlines\",1\n2,\n", &["required a value", "`Missing::Mean`", "line 4, column `a`"]),
        ("a,b\n1,2\n3\n", &["t.csv: row: required 2 cells", "got 1 in line 3"]),
        ("a,b\n1,2\n3,4,5\n", &["got 3 in line 3"]),
        ("b,c\n1,2\n", &["one column `a`, got columns b, c"]),
        ("a,a\n1,2\n", &["two of that name"]),
        ("", &["required a row of cells, got nothing"]),
        ("\u{feff}", &["required a row of cells, got nothing"]),
        ("a\n1e400\n", &["\"1e400\" in line 2"]),
        ("a\n-1e39\n", &["finite number"]),
        ("a\n0x10\n", &["finite number"]),
        ("a\n1,5\n", &["required 1 cells", "got 2 in line 2"]),
        // A quote that nobody closes takes the rest of the file along.
        ("b,a\n\"x,1\ny,2\n", &["a second quote behind one that begins a cell", "begins in line 2"]),
        ("a,b\n1,\"x\n2,y\n3,z\n", &["a second quote behind one that begins a cell", "begins in line 2"]),
        ("\u{feff}\"a\",b\n1,\"x\n2,y\n", &["a second quote behind one that begins a cell"]),
    ] {
        let message = message(number(), text);
        assert!(parts.iter().all(|part| message.contains(part)), "{text:?}: {message}");
    }
    let long = "y".repeat(1000);
    assert!(message(number(), &format!("a\n{long}\n")).len() < 250);
    let integer = Csv::new().column("n", Column::integer("a"));
    assert!(message(integer, "a\n1.5\n").contains("a whole number, got \"1.5\""));
    let error = number().fit_bytes(&b"a\n1\n"[..], "t.csv").unwrap().read_bytes(&b"a,b\n1,\xff\n"[..], "t.csv");
    assert!(error.unwrap_err().to_string().contains("UTF-8, got other bytes in cell 2 in line 2"));
    let mean = Csv::new().field("x", [Column::number("a").missing(Missing::Mean)]);
    assert!(message(mean, "a\n\"\"\n").contains("at least one number in column `a`"));
    assert!(matches!(number().fit("no/such.csv"), Err(DataError::Missing { .. })));
    // Quotes in quotes, in the midst of cells, and at the very end.
    let names = Csv::new().column("y", Column::category("a"));
    let reader = names
        .fit_bytes(&b"\xef\xbb\xbf\"a\"\r\n\"x \"\"y\"\"\"\r\n5\" tall\r\n\"\"\"\"\r\n\"two\nlines\""[..], "t.csv")
        .unwrap();
    let entries = reader.columns("y")[0].entries().unwrap().entries().to_vec();
    assert_eq!(entries, ["\"", "5\" tall", "two\nlines", "x \"y\""]);
    // Two columns of a name are fine where neither is asked for.
    assert_eq!(read(number(), "b,a,b\n1,2,3\n").unwrap().len(), 1);
    let scratch = Scratch::new("twice", "a,a,y\n1,2,0\n");
    let suggested = Csv::suggested(&scratch.0, Column::category("y"), None).and_then(|csv| csv.fit(&scratch.0));
    assert!(suggested.unwrap_err().to_string().contains("one column `a`, got two of that name"));
    // A table of no rows is a table.
    assert_eq!(read(number(), "a\n").unwrap().len(), 0);
}

#[test]
fn columns_that_make_no_sense_are_refused() {
    let n = || Column::number("a");
    for (csv, part) in [
        (Csv::new(), "at least one field"),
        (Csv::new().field("x", []), "at least one column for field `x`"),
        (Csv::new().column("x", n()).column("x", n()), "`x` twice"),
        (Csv::new().field("x", [n(), Column::category("b")]), "one element type for field `x`"),
        (Csv::new().column("x", Column::one_hot("a")), "one number for each row of field `x`"),
        (Csv::new().field("x", [n()]).labels("x"), "labels that are a field of one number"),
        (Csv::new().column("x", n()).labels("z"), "got `z`"),
        (Csv::new().column("x", n().missing(Missing::Category)), "a way with missing values that fits"),
        (Csv::new().column("x", n().missing(Missing::Value(f32::NAN))), "a way with missing values that fits"),
        (Csv::new().column("x", Column::category("a").missing(Missing::Mean)), "a way with missing values that fits"),
        (Csv::new().column("x", n().unknown()), "names or texts"),
        (Csv::new().field("x", [Column::text("a", Unit::Word, 0)]), "at least one id"),
    ] {
        let message = message(csv, "a,b\n1,2\n");
        assert!(message.contains(part), "{part}: {message}");
    }
    let many: String = ["a\n".to_owned()].into_iter().chain((0..=MOST_ONE_HOT).map(|k| format!("n{k}\n"))).collect();
    let message = message(Csv::new().field("x", [Column::one_hot("a")]), &many);
    assert!(message.contains("at most 4096 names in column `a`, got 4097"), "{message}");
}

#[test]
fn readers_are_stored_and_what_is_damaged_is_refused() {
    let reader = fitted();
    let json = serde_json::to_string(&reader).unwrap();
    let again: CsvReader = serde_json::from_str(&json).unwrap();
    assert_eq!(again, reader);
    assert_eq!(again.read_bytes(PEOPLE.as_bytes(), "p").unwrap(), reader.read_bytes(PEOPLE.as_bytes(), "p").unwrap());
    for (from, to) in [("\"mean\":30.0", "\"mean\":null"), ("\"labels\":\"y\"", "\"labels\":\"z\""), ("Oslo", "Rome")] {
        let damaged = json.replacen(from, to, 1);
        assert!(damaged != json && serde_json::from_str::<CsvReader>(&damaged).is_err(), "{from}");
    }
    assert!(CsvReader::try_from(people()).unwrap_err().to_string().contains("call `Csv::fit`"));
}

/// A file of this test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("cotangent-csv-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn rows_that_stay_in_the_file_are_those_of_the_table() {
    let mut text = "t,a,b\r\n".to_owned();
    for k in 0..200 {
        let cell = if k % 7 == 0 { String::new() } else { format!("{}", f64::from(k) / 3.0) };
        text += &format!("\"line\r\n{k}\",{cell},{}\r\n", ["u", "v", "w"][k as usize % 3]);
    }
    let scratch = Scratch::new("rows", &text);
    let csv = Csv::new()
        .field("x", [Column::number("a").missing(Missing::Row)])
        .column("y", Column::category("b"))
        .labels("y");
    let reader = csv.fit(&scratch.0).unwrap();
    let (table, rows) = (reader.read(&scratch.0).unwrap(), reader.stream(&scratch.0).unwrap());
    assert_eq!((rows.len(), table.len()), (171, 171));
    assert_eq!(Table::of(&rows).unwrap(), Table::of(&table).unwrap());
    for (order, epoch) in [(Order::Shuffled, 3), (Order::Stratified, 4), (Order::Balanced, 5)] {
        let places = rows.places(order, 9, epoch).unwrap();
        assert_eq!(places, table.places(order, 9, epoch).unwrap());
        let (mut streamed, mut kept) = (Vec::new(), Vec::new());
        rows.gather(epoch, &places[..50], &mut streamed).unwrap();
        table.gather(epoch, &places[..50], &mut kept).unwrap();
        assert_eq!(streamed, kept);
    }
    assert!(rows.is_slow() && rows.gather(0, &[171], &mut Vec::new()).is_err());
    // A file that is changed under way is noticed.
    std::fs::write(&scratch.0, text.replace("\"line\r\n7\"", "\"line\r\n77\"")).unwrap();
    let error = rows.gather(0, &[0], &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("changed since it was opened"), "{error}");
    let bad = Scratch::new("bad", "a,b\n1,u\nx,u\n");
    let csv = Csv::new().field("x", [Column::number("a")]).fit(&bad.0).unwrap();
    assert!(csv.stream(&bad.0).unwrap_err().to_string().contains("line 3, column `a`"));
}

#[test]
fn a_file_suggests_how_to_read_it() {
    let scratch = Scratch::new("suggested", PEOPLE);
    let csv = Csv::suggested(&scratch.0, Column::category("score"), None).unwrap();
    let reader = csv.fit(&scratch.0).unwrap();
    let kinds: Vec<&Kind> = reader.columns("x").iter().map(Column::kind).collect();
    assert_eq!(kinds, [&Kind::OneHot, &Kind::Number, &Kind::OneHot]);
    assert_eq!(column(&reader.read(&scratch.0).unwrap(), "y"), [0.0, 2.0, 1.0, 0.0]);
    let error = |file: &Scratch, among: Option<&[&str]>| {
        let among = among.map(|names| names.iter().map(|name| name.to_string()).collect::<Vec<_>>());
        Csv::suggested(&file.0, Column::category("y"), among.as_deref()).err().map(|error| error.to_string())
    };
    assert!(error(&scratch, None).unwrap().contains("name, age, city"));
    // A cell among many numbers that is none is most likely a mistake, if the column is asked for.
    for bad in ["inf", "1e39", "\"1,234.5\"", "abc"] {
        let rows = |n: usize| (0..n).map(|i| format!("{i},{},{}\n", i % 3, i % 2)).collect::<String>();
        let text = format!("a,b,y\n{}{bad},1,0\n{}", rows(7), rows(32));
        let odd = Scratch::new("odd", &text);
        let message = error(&odd, None).unwrap();
        assert!(message.contains("line 9, column `a`: required a number, as 39 of 40 cells"), "{message}");
        assert_eq!(error(&odd, Some(&["b"])), None);
        // Of few cells, and of many names, nothing is to be said.
        let few = Scratch::new("few", &format!("a,b,y\n{}{bad},1,0\n", rows(10)));
        assert_eq!(error(&few, None), None);
    }
    // Columns come in the order in which they are named, each once, and the label is none of them.
    let table = Scratch::new("order", "a,b,y\n1,2,0\n3,4,1\n");
    let names = ["b".to_owned(), "a".to_owned()];
    let reader = Csv::suggested(&table.0, Column::category("y"), Some(&names)).unwrap().fit(&table.0).unwrap();
    assert_eq!(column(&reader.read(&table.0).unwrap(), "x"), [2.0, 1.0, 4.0, 3.0]);
    for (among, part) in [(["a", "a"], "got it twice"), (["a", "y"], "got the label"), (["a", "z"], "columns a, b, y")]
    {
        assert!(error(&table, Some(&among)).unwrap().contains(part), "{:?}", error(&table, Some(&among)));
    }
}
