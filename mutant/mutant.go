package mutant

// Mutant is a fault.
type Mutant string

// The faults, each with what the program then does.
const (
	CollectUsed       Mutant = "collect-used"       // a collection of the block store takes what some pins reach
	PinsLeft          Mutant = "pins-left"          // what was pinned for a manifest that never came is struck out, and stays pinned
	PurgeNewest       Mutant = "purge-newest"       // a purge takes the newest snapshot like any other
	RestoreForgets    Mutant = "restore-forgets"    // a restore removes the snapshot that it took of the present state
	TakeoverKeeps     Mutant = "takeover-keeps"     // a takeover shows the data that the machine has, though another one published since
	UploadSkips       Mutant = "upload-skips"       // an upload leaves out some blocks of content
	WindowBefore      Mutant = "window-before"      // a window of a file is filled with what the one before it holds
	ReplicateUnpinned Mutant = "replicate-unpinned" // what is replicated does not stay pinned at the second place
	ExportNewest      Mutant = "export-newest"      // an export writes the newest snapshot, whichever was asked for
	ImportUnpinned    Mutant = "import-unpinned"    // an imported snapshot does not stay pinned
	DiffRemoved       Mutant = "diff-removed"       // a diff does not tell what was removed
	VerifyBlind       Mutant = "verify-blind"       // a verification finds no damage
	BrowseNewest      Mutant = "browse-newest"      // who looks into a snapshot sees the newest one
)

// All are the faults that there are.
var All = []Mutant{CollectUsed, PinsLeft, PurgeNewest, RestoreForgets, TakeoverKeeps, UploadSkips, WindowBefore, ReplicateUnpinned, ExportNewest, ImportUnpinned,
	DiffRemoved, VerifyBlind, BrowseNewest}

// Env is the variable that names the fault of a program built with the tag crashtest.
const Env = "FRACTAL_MUTANT"
