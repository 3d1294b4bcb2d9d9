//! How a figure is printed: what was measured, beside what, its goal and the quoted figure of upstream.

/// Prints what the figures were taken on; they are good for ratios within one run only.
pub fn machine() {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let model = read("/proc/cpuinfo");
    let model =
        model.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("").trim_matches([' ', '\t', ':']);
    println!("Linux {}, {cpus} processors ({model})", read("/proc/sys/kernel/osrelease").trim());
}

/// One figure against its goal.
pub fn figure(name: &str, seen: &str, goal: &str, reached: bool, upstream: &str) {
    let verdict = if reached { "reached" } else { "MISSED" };
    println!("{name}: {seen}  | goal {goal}: {verdict}  | upstream (quoted): {upstream}");
}

/// The samples behind a figure.
pub fn raw(name: &str, samples: &str) {
    println!("  raw {name}: {samples}");
}
