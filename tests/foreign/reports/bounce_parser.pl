# Reads a report on the standard input; writes one line for each recipient: address, status, and how the module calls it.
use strict;
use warnings;
use Mail::DeliveryStatus::BounceParser;

my $message = do { local $/; <STDIN> };
my $bounce = Mail::DeliveryStatus::BounceParser->new($message);
die "not taken for a report\n" unless $bounce->is_bounce;
for my $report ($bounce->reports) {
    print join("\t", map { defined $_ ? $_ : "" } $report->get("email"), $report->get("std_reason"), $report->get("Status")), "\n";
}
