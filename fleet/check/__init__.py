"""Whether hosts, network and this machine are fit for `fleet up`: answers → findings, each with its remedy."""
