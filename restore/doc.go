// Package restore brings a cluster back: it chooses a backup, proves that the
// target can be reached, writes the files and tells PostgreSQL how far to
// recover.
//
// # The way through
//
//	ParseTarget   what the user asked for, with an unambiguous time
//	MakePlan      choose and prove; reads the repository and the directories, writes nothing
//	  archive.go    what WAL and which timelines the archive holds
//	  choose.go     which backup, by the type of the target
//	  branches.go   what the newest timeline leaves out
//	  scan.go       where in the WAL a time, a transaction or a restore point lies
//	  directory.go  which directories the cluster would go to, and whether they are fit
//	Run           MakePlan, then
//	  layout.go     directories, tablespaces and links
//	  writer.go     files, in parallel, each against its checksum
//	  settle.go     modes and owners of directories, durability
//	  recovery.go   postgresql.auto.conf and recovery.signal
//	  verified.go   backup_manifest for pg_verifybackup
//	  control.go    pg_control, last
//
// # Rules that the code relies on
//
// The choice is a pure function (decide) of the catalogue and of what a WAL
// scan reports, so that every situation is a table test. It follows what
// PostgreSQL's startup process will do (xlogrecovery.c; xlog.c before 15), and
// refuses what PostgreSQL would refuse only after hours of replay: a target
// before consistency, beyond the archive, or on a timeline that does not
// descend from the backup.
//
// Nothing is written before everything has been checked. What is written goes
// through an [os.Root] of the target directory or of one approved tablespace
// or link destination, and every file of the backup to a name that did not
// exist: a hostile repository cannot lead a write elsewhere.
//
// global/pg_control gets its name when everything else is durable. A directory
// without it does not start, so an interrupted restore cannot be mistaken for
// a cluster.
package restore
